"""One training example as text."""

from dataclasses import dataclass

from topiclora_cli.tasks import Example


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


def embedded_row(example: Example, *, source: int = 0) -> Row:
    """An example of the embedded task families as a row."""
    return Row(example.prompt, " " + example.answer, example.topics, source=source)
