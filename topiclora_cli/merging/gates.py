"""What `--gates` may say: which fixed gates an export has."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from topiclora_cli.errors import TopicLoraError, nearest

Kind = Literal["mean", "uniform", "learned", "topics", "all", "expert"]
_FORMS = "Use 'mean' or 'topic:NAME', topic:all, topics:a=0.6,b=0.4, mean:FILE, uniform, learned or expert:NUMBER."
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Gates:
    """Where gates come from. text: as it was asked for; topics: each topic's share, of one or of several; file: of
    prompts to average over, or to fit on, in the place of training prompts; expert: the only one, from 0."""

    text: str
    kind: Kind
    topics: Mapping[str, float] = field(default_factory=dict)
    file: str | None = None
    expert: int = 0

    @property
    def topic(self) -> str | None:
        """The one topic that the export is for."""
        return next(iter(self.topics)) if len(self.topics) == 1 else None


def parse_gates(text: str) -> Gates:
    """Read `--gates`; raises TopicLoraError for what it cannot be, and for shares that do not sum to 1."""
    kind, colon, rest = text.partition(":")
    if kind in ("mean", "learned") and (rest or not colon):
        return Gates(text, kind, file=rest or None)  # type: ignore[arg-type]
    if text == "uniform":
        return Gates(text, "uniform")
    if kind == "topic" and rest:
        return Gates(text, "all") if rest == "all" else Gates(text, "topics", {rest: 1.0})
    if kind == "topics" and rest:
        return Gates(text, "topics", _shares(rest))
    if kind == "expert" and rest:
        if not rest.isdecimal():
            raise TopicLoraError(f"merge.gates {text!r} names no expert.", "Give its number, counted from 0: expert:3")
        return Gates(text, "expert", expert=int(rest))
    raise TopicLoraError(f"merge.gates {text!r} is unknown.", _FORMS)


def check_topics(asked: Gates, known: Collection[str]) -> None:
    """Raises TopicLoraError, with the nearest, for a topic that is not known."""
    for topic in asked.topics:
        if topic not in known:
            raise TopicLoraError(f"No training example carries the topic {topic!r}.", nearest(topic, known))


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not (equals and name.strip() and share >= 0):
            raise TopicLoraError(
                f"merge.gates topics:{text} has no share for {part.strip()!r}.", "Write topics:NAME=0.6,OTHER=0.4"
            )
        shares[name.strip()] = shares.get(name.strip(), 0.0) + share
    if abs(sum(shares.values()) - 1) > _TOLERANCE:
        raise TopicLoraError(
            f"The shares of merge.gates topics:{text} sum to {sum(shares.values()):g}, not to 1.",
            "Change them so that they do.",
        )
    return shares
