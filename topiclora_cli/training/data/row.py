"""One training example as text."""

from dataclasses import dataclass
from itertools import takewhile

from topiclora_cli.tasks import Example

ASSISTANT = "assistant"


@dataclass(frozen=True)
class Row:
    """One training example as text: `completion` starts with the space that follows the prompt.

    turns: of a conversation, (role, content) of every message up to the completion; `prompt` is then all of it but the
    last, for the text encoder to read. source: the number of the source it comes from.
    """

    prompt: str
    completion: str
    topics: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    source: int = 0

    @property
    def opening(self) -> str:
        """What stands for the example when a split is drawn: its prompt, of a conversation all before any answer.

        All turns of one conversation have the same.
        """
        start = [content for _, content in takewhile(lambda turn: turn[0] != ASSISTANT, self.turns)]
        return "\n".join(start) or self.prompt

    @property
    def asked(self) -> str:
        """The prompt, or the last message before a conversation's completion."""
        return self.turns[-2][1] if len(self.turns) > 1 else self.prompt


def embedded_row(example: Example, *, source: int = 0) -> Row:
    """An example of the embedded task families as a row."""
    return Row(example.prompt, " " + example.answer, example.topics, source=source)
