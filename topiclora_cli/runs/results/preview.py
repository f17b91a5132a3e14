"""Training examples as a model sees them, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

from topiclora_cli.runs.results.route import TopicView


@dataclass(frozen=True)
class TokenView:
    """A token by number and as text, and its weight in the language-modelling loss, 0 where it is only read."""

    id: int
    text: str
    weight: float


@dataclass(frozen=True)
class Passage:
    """The text of tokens in a row that have one weight in the loss."""

    text: str
    weight: float


@dataclass(frozen=True)
class ExampleView:
    """One example: its source with the format it was found in, its topics, its text in passages and by token, and how
    many tokens are its prompt.

    too_long: it has more tokens than data.max_length, and is not trained on. about: its topics and prior by a topic
    graph, where there is one.
    """

    source: str
    topics: Sequence[str]
    passages: Sequence[Passage]
    tokens: Sequence[TokenView]
    prompt_length: int
    too_long: bool
    about: TopicView | None = None
