"""`topiclora chat`: a conversation with a run's model, and which experts its answers met."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from topiclora_cli.cli.console import TerminalProgress, console, errors, fail
from topiclora_cli.cli.options import RunOption, open_trained
from topiclora_cli.errors import TopicLoraError

if TYPE_CHECKING:
    from topiclora_cli.stages.chat import Chat

NEW = "/new"


def chat(
    run: RunOption = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Answer this and end (default: what comes through a pipe).")
    ] = None,
    show_gates: Annotated[
        bool, typer.Option("--show-gates", "-g", help="After each answer: its topics, and the share of every expert.")
    ] = False,
    base: Annotated[
        bool, typer.Option("--base", help="Show the base model's answer, too, before the tuned one's.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token, more draws more freely.")
    ] = 0.0,
) -> None:
    """Talk to a run's model; Ctrl-C stops an answer, Ctrl-D ends.

    Prompts are put as the run was trained on them: by the chat template on conversations, which are then remembered,
    and as they are, each by itself, on prompts with completions.
    """
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise TopicLoraError("The prompt is empty.", 'Example: topiclora chat --prompt "What is 12 times 7?"')
    settings, directory = open_trained(run, None)
    from topiclora_cli.stages.chat import Manner, open_chat

    progress = TerminalProgress(errors)
    talk = open_chat(settings, directory, progress, Manner(max_new_tokens, temperature), show_gates=show_gates)
    if prompt is not None:
        _answer(talk, prompt, base=base, show_gates=show_gates)
        return
    kept = f"; {NEW} begins anew" if talk.remembers else ""
    console.print(
        f"{directory.path} ({settings.adapter.method}). Ctrl-C stops an answer, Ctrl-D ends{kept}.", soft_wrap=True
    )
    while (text := _next()) is not None:
        if text == NEW:
            talk.turns.clear()
        elif text:
            try:
                _answer(talk, text, base=base, show_gates=show_gates)
            except TopicLoraError as error:
                fail(error.message, error.hint)
            except KeyboardInterrupt:
                console.print(Text("\n(stopped)", "dim"))


def _next() -> str | None:
    """What somebody types; None once they end, by Ctrl-D or Ctrl-C."""
    try:
        return console.input(Text("> ", "bold")).strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return None


def _answer(talk: "Chat", text: str, *, base: bool, show_gates: bool) -> None:
    if base:
        console.print(Text("base: ", "dim"), end="")
        talk.ask(text, _Printed(), base=True)
        console.print()
        console.print(Text("tuned: ", "dim"), end="")
    printed = _Printed()
    prompt, answer = talk.ask(text, printed)
    console.print()
    if not printed.begun:
        errors.print(Text("(The model ended without an answer.)", "dim"), soft_wrap=True)
    talk.keep(text, answer)
    if show_gates:
        from topiclora_cli.reporting.terminal import experts_table

        result = talk.gates(text, prompt, answer)
        if result.topics is not None:
            about = ", ".join(f"{score.topic} {score.relevance:.2f}" for score in result.topics.topics[:3])
            console.print(Text(f"about: {about}", "dim"), soft_wrap=True)
        console.print(experts_table(result))


class _Printed:
    """Prints pieces of an answer as they come, without the white space that it begins with."""

    def __init__(self) -> None:
        self.begun = False

    def __call__(self, piece: str) -> None:
        piece = piece if self.begun else piece.lstrip()
        self.begun = self.begun or bool(piece)
        console.print(piece, end="", soft_wrap=True)
        console.file.flush()
