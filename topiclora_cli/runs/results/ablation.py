"""What a grid found: each cell over its seeds, and its difference from others on the same questions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from topiclora_cli.runs.results.entropy import ByEntropy
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.probed_cells import ProbedCell
from topiclora_cli.runs.results.record import Settings

LEVELS = ("tasks", "questions")  # what a mean is taken over


@dataclass(frozen=True)
class Difference(Interval):
    """A cell's mean minus another's on the same questions and seeds, `seeds` of them.

    p: two-sided, by `test`; p_holm: adjusted (Holm 1979) over the `family` cells of the grid that are compared with
    this other one, those not finished counted as no difference. None: not tested.
    """

    seeds: int = 1
    p: float | None = None
    test: str = ""
    p_holm: float | None = None
    family: int = 0


@dataclass(frozen=True)
class Measure:
    """A metric of a cell by level, the mean over `tasks` or over all `questions`: its mean and deviation over seeds.

    against: differences, this cell's minus another's, by the other's name and by level.
    """

    unit: str
    higher_is_better: bool | None
    mean: Mapping[str, float]
    deviation: Mapping[str, float | None]
    against: Mapping[str, Mapping[str, Difference]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a run takes: parameters that are trained, those of them that a token activates, seconds of training and of
    scoring, and the most GiB that training held, in memory and on the accelerator. None: nobody counted.
    """

    parameters: float | None = None
    activated: float | None = None
    train_seconds: float | None = None
    eval_seconds: float | None = None
    resident_gib: float | None = None
    accelerator_gib: float | None = None


@dataclass(frozen=True)
class TaskScore:
    """A task's headline metric in one run, with its standard error, over `count` questions."""

    task: str
    metric: str
    filter: str
    unit: str
    higher_is_better: bool | None
    count: int
    score: float
    stderr: float | None


@dataclass(frozen=True)
class CellRun:
    """One seed of a cell, and where its numbers come from: the folder of its run and that of its evaluation, both
    within the grid's, and the sha256 of its settings. mean: of the `tasks`.
    """

    seed: int
    folder: str
    evaluation: str
    settings: str
    mean: float
    tasks: tuple[TaskScore, ...]
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Standing:
    """A cell among the others: in how many pairs of task and seed it beats the reference, ties with it or loses, and
    its mean rank of 1 to `among` over `blocks` pairs of task and seed that all have, ties sharing theirs.

    None: nothing that all have.
    """

    wins: int = 0
    ties: int = 0
    losses: int = 0
    rank: float | None = None
    blocks: int = 0
    among: int = 0

    @property
    def win_rate(self) -> float | None:
        """The share of pairs that are won, a tie counting half; None where there are none."""
        pairs = self.wins + self.ties + self.losses
        return (self.wins + self.ties / 2) / pairs if pairs else None


@dataclass(frozen=True)
class TopicScore:
    """The questions of a topic: a cell's mean score over seeds, and its mean difference from the reference over
    `seeds`, None where that was not asked the same ones. low, high: ends of the difference's 95 % interval, None
    of fewer than FEWEST questions.
    """

    topic: str
    count: int
    mean: float
    difference: float | None
    seeds: int
    low: float | None = None
    high: float | None = None


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
    all, with their losses on held-out examples. measures: the metric and the choice loss, by question. runs: one a
    seed. cost: a mean over these; fronts: those of its fields in which no other cell is as good for as little. odd: why
    it is not compared with the others.
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
    runs: tuple[CellRun, ...] = ()
    cost: Cost = field(default_factory=Cost)
    fronts: tuple[str, ...] = ()
    standing: Standing = field(default_factory=Standing)
    topics: tuple[TopicScore, ...] = ()
    odd: str = ""

    def against(self, other: str) -> Difference | None:
        """Its difference from another cell in the metric, as a mean of tasks; None where there is none."""
        measure = self.measures.get(self.metric)
        return measure.against.get(other, {}).get("tasks") if measure else None


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
    """All cells of which a seed is finished, as `ablation/results.json` holds them; reference: the cell that others are
    compared with. by_entropy: their scores along the entropy of questions' topics, None where nobody knows that.
    probes: by name, the cells that were asked under it. sorted_by: the cell by whose graph all questions have their
    topics; None where nobody kept these, and each cell's scores by topic are by its own.
    """

    cells: tuple[CellScore, ...]
    reference: str = "full"
    by_entropy: ByEntropy | None = None
    probes: Mapping[str, tuple[ProbedCell, ...]] = field(default_factory=dict)
    sorted_by: str | None = None
