"""One training example as text."""

from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

from topiclora_cli.data.families import Example

ASSISTANT = "assistant"


@dataclass(frozen=True)
class Turn:
    """A message of a conversation: its text, and the calls of tools in it, each as JSON of `name` and `arguments`.

    name, tool_call_id: of a tool that answers. weight: of its tokens in the loss, beside those of other turns.
    """

    role: str
    content: str
    calls: tuple[str, ...] = ()
    name: str = ""
    tool_call_id: str = ""
    weight: float = 1.0

    @property
    def text(self) -> str:
        """All of it as text, a call on a line of its own."""
        return "\n".join(filter(None, (self.content, *self.calls)))


@dataclass(frozen=True)
class Row:
    """One training example as text: `prompt` ends without white space, `completion` starts with that between the two.

    turns: of a conversation, every message up to the completion; `prompt` is then all of it but the last, for the text
    encoder to read. together: of a conversation that is trained on in all turns of the assistant's; `prompt` is then
    what comes before the first. tools: those that a conversation may use, as JSON. source: the number of the source it
    comes from. gap: how many characters of the completion are not its own, but stand before it. kind: its value of the
    column that a limit is counted by. loss_weight: of its tokens in the language-modelling loss, beside those of other
    examples.
    """

    prompt: str
    completion: str
    topics: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    source: int = 0
    gap: int = 1
    kind: str = ""
    tools: str = ""
    together: bool = False
    loss_weight: float = 1.0

    @property
    def opening(self) -> str:
        """What stands for the example when a split is drawn: its prompt, of a conversation all before any answer.

        All turns of one conversation have the same.
        """
        start = [turn.text for turn in takewhile(lambda turn: turn.role != ASSISTANT, self.turns)]
        return "\n".join(start) or self.prompt

    @property
    def answer(self) -> str:
        """The completion by itself."""
        return self.completion[self.gap :]

    @property
    def asked(self) -> list[str]:
        """The prompt, or the last message before a conversation's completion, or before each of several."""
        asked = [turn.text for turn, after in pairwise(self.turns) if after.role == ASSISTANT]
        return (asked if self.together else asked[-1:]) or [self.prompt]


def as_row(prompt: str, completion: str, **keys: Any) -> Row:
    """A prompt and its completion to the letter as a row, with a space between them where there is no white space.

    White space at the prompt's end goes to the completion, as lm-evaluation-harness has it: most tokenizers join it to
    the word that follows. `keys` are the row's other fields.
    """
    start = prompt.rstrip()
    between = prompt[len(start) :] or ("" if completion[:1].isspace() else " ")
    return Row(start, between + completion, gap=len(between), **keys)


def embedded_row(example: Example, *, source: int = 0) -> Row:
    """An example of the embedded task families as a row."""
    return Row(example.prompt, " " + example.answer, example.topics, source=source)
