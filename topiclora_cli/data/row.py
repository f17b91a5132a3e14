"""One training example as text."""

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from topiclora_cli.data.families import Example

ASSISTANT = "assistant"


@dataclass(frozen=True)
class Row:
    """One training example as text: `prompt` ends without white space, `completion` starts with that between the two.

    turns: of a conversation, (role, content) of every message up to the completion; `prompt` is then all of it but the
    last, for the text encoder to read. source: the number of the source it comes from. gap: how many characters of the
    completion are not its own, but stand before it. kind: its value of the column that a limit is counted by.
    """

    prompt: str
    completion: str
    topics: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    source: int = 0
    gap: int = 1
    kind: str = ""

    @property
    def opening(self) -> str:
        """What stands for the example when a split is drawn: its prompt, of a conversation all before any answer.

        All turns of one conversation have the same.
        """
        start = [content for _, content in takewhile(lambda turn: turn[0] != ASSISTANT, self.turns)]
        return "\n".join(start) or self.prompt

    @property
    def answer(self) -> str:
        """The completion by itself."""
        return self.completion[self.gap :]

    @property
    def asked(self) -> str:
        """The prompt, or the last message before a conversation's completion."""
        return self.turns[-2][1] if len(self.turns) > 1 else self.prompt


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
