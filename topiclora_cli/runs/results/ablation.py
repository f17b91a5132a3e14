"""What a grid found: each cell over its seeds, and its difference from others on the same questions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from topiclora_cli.runs.results.record import Settings

LEVELS = ("tasks", "questions")  # what a mean is taken over


@dataclass(frozen=True)
class Interval:
    """A mean difference and the ends of its 95 % percentile interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Measure:
    """A metric of a cell by level, the mean over `tasks` or over all `questions`: its mean and deviation over seeds.

    against: differences, this cell's minus another's, by the other's name and by level.
    """

    unit: str
    higher_is_better: bool | None
    mean: Mapping[str, float]
    deviation: Mapping[str, float | None]
    against: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tried:
    """Values of `ablation.tune` with their loss on held-out examples, in nats per answer token; None: it diverged."""

    values: Settings
    eval_loss: float | None


@dataclass(frozen=True)
class CellScore:
    """A cell over its seeds: mean score, standard deviation (None for one seed), paired gain over `full`.

    The score is the mean over tasks of the metric (or kind of metric) `metric`, in `unit`. parameters: all that are
    trained. tuned: the values that were chosen for it, of which those of `edges` are at an end of their list; tried:
    all, with their losses on held-out examples. measures: the metric and the choice loss, by question.
    """

    name: str
    seeds: int
    metric: str
    unit: str
    higher_is_better: bool | None
    mean: float
    deviation: float | None
    against_full: float | None
    kl: float | None
    mutual_information: float | None
    parameters: int | None = None
    tuned: Settings = field(default_factory=dict)
    edges: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    measures: Mapping[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class CellFailure:
    """Why the latest attempt at a cell came to nothing, as `failure.json` in its folder holds it.

    stage: at which it stood: `graph`, `train` or `eval`. when: ISO 8601, UTC. attempt: the first is 1. diverged: its
    loss ceased to be a number, which is a finding and no mishap.
    """

    cell: str
    seed: int
    stage: str
    reason: str
    hint: str
    when: str
    attempt: int = 1
    diverged: bool = False


@dataclass(frozen=True)
class GridScores:
    """All cells of which a seed is finished, as `ablation/results.json` holds them."""

    cells: tuple[CellScore, ...]
