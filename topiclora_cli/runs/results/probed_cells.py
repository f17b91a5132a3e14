"""What probes do to the cells of a grid."""

from collections.abc import Mapping
from dataclasses import dataclass

from topiclora_cli.runs.results.interval import Interval


@dataclass(frozen=True)
class ProbedMeasure:
    """A measure of a cell under a probe, and what the probe changes of it; both less the reference's, by question.

    None of the reference itself, and of a cell that was asked something else.
    """

    after: Interval
    change: Interval
    after_less: Interval | None
    change_less: Interval | None


@dataclass(frozen=True)
class JoinedMeans:
    """Means over seeds of what `Joined` says of prompts that join two topics: distances from both and from the asked
    question alone, in nats, and how much more weight the other topic's expert has. None without a graph."""

    gates: tuple[float, float]
    gates_from_prior: tuple[float, float] | None
    prior: tuple[float, float] | None
    weight: float | None


@dataclass(frozen=True)
class ProbedCell:
    """A cell under a probe, over its seeds.

    moved: a mean over seeds of how far the probe moves the routing, in nats; None without routers.
    """

    cell: str
    seeds: int
    asked: int
    measures: Mapping[str, ProbedMeasure]
    moved: float | None
    joined: JoinedMeans | None
