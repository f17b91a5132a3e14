"""What a run says of itself: what it is, and of each stage how it went, on what, and what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from topiclora_cli.runs.results.training import TrainResult

# Of a recipe, by dotted key: what a recipe may hold is the recipe's own to say.
Settings = Mapping[str, Any]

State = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class Machine:
    """What a stage ran on, without anybody's name: the processor, its cores, memory in GiB, and the accelerator."""

    processor: str
    cores: int | None
    memory_gib: float | None
    accelerator: str | None = None
    accelerator_gib: float | None = None


@dataclass(frozen=True)
class PeakMemory:
    """The most that this process held in a stage, in GiB: resident in memory, and allocated on the accelerator.

    resident: elsewhere than on Linux, and in records of earlier versions, of the process so far.
    """

    resident_gib: float | None
    accelerator_gib: float | None = None


@dataclass(frozen=True)
class GraphFacts:
    """Of the stage `graph`; its results lie in `graph/report.json`."""

    topics: int
    experts: int
    sha256: str


@dataclass(frozen=True)
class EvalFacts:
    """Of the latest evaluation, `eval/NAME`: its mean, where it has one; failed: what could not be scored."""

    name: str
    base: float | None = None
    base_stderr: float | None = None
    tuned: float | None = None
    tuned_stderr: float | None = None
    delta: float | None = None
    delta_stderr: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class MergeFacts:
    """Of the latest export, `merged/NAME`."""

    name: str
    gates: str
    kl: float
    agreement: float
    on: str = "held-out examples"


@dataclass(frozen=True)
class GridFacts:
    """Of the stage `ablation`; its results lie in `ablation/results.json`."""

    cells: int
    seeds: int


@dataclass(frozen=True)
class AddedTopic:
    """Of the stage `add-topic`: what was added, to which run, from which data, as which expert, counted from 0.

    nearest: the topics that it is tied to, the strongest ties first. trained: numbers that were trained. rehearsed: old
    examples that the routers were fitted on; 0 where none could be read, and the topics' descriptions stood for them.
    relevance_own, relevance_others: its mean score on its prompts and on old ones. prior_moved: mean share of an old
    prompt's prior that goes elsewhere now. chosen_old, chosen_new: shares of old and of new tokens for which a router
    chooses the expert, means over the routers; silent: of how many it is off.
    """

    topic: str
    to: str
    data: str
    examples: int
    expert: int
    nearest: str
    trained: int
    rehearsed: int
    relevance_own: float
    relevance_others: float
    prior_moved: float
    chosen_old: float
    chosen_new: float
    silent: int
    routers: int


@dataclass(frozen=True)
class DroppedTopic:
    """Of the stage `drop-topic`: what went, from which run, and its expert, counted from 0, unless others share it.

    shared_with: those others.
    """

    topic: str
    of: str
    expert: int | None = None
    shared_with: str = ""


StageResult = AddedTopic | DroppedTopic | GraphFacts | TrainResult | EvalFacts | MergeFacts | GridFacts
RESULT_OF: Mapping[str, type[StageResult]] = {
    "graph": GraphFacts,
    "train": TrainResult,
    "eval": EvalFacts,
    "merge": MergeFacts,
    "ablation": GridFacts,
    "add-topic": AddedTopic,
    "drop-topic": DroppedTopic,
}


@dataclass(frozen=True)
class StageRecord:
    """A stage of a run: how it went and with what; `result` is of its kind in RESULT_OF, None until it is done.

    started: ISO 8601, UTC. seconds: of a training that was resumed, with those before; while one runs, these alone.
    recipe: the file in the run with the effective recipe; overridden: what in it is not as the
    run's own recipe says. copied_from: the cell of a grid that a graph was borrowed from. None: an earlier version did
    not say.
    """

    state: State
    started: str = ""
    seconds: float | None = None
    recipe: str | None = None
    overridden: Settings = field(default_factory=dict)
    versions: Mapping[str, str | None] = field(default_factory=dict)
    machine: Machine | None = None
    peak: PeakMemory | None = None
    copied_from: str | None = None
    result: StageResult | None = None


@dataclass(frozen=True)
class Manifest:
    """A run, as `run.json` holds it: name and seed of its recipe, what it was made on, and its stages by name.

    created: ISO 8601, UTC. got_nowhere: the command that made it failed before it was trained. diverged: why its loss
    ceased to be a number.
    """

    name: str = ""
    seed: int | None = None
    created: str = ""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    platform: str = ""
    cpus: int | None = None
    git: str | None = None
    got_nowhere: bool = False
    diverged: str | None = None
    stages: Mapping[str, StageRecord] = field(default_factory=dict)

    @property
    def trained(self) -> TrainResult | None:
        """What its training found; None until that is done, and of one that an earlier version did not say it of."""
        record = self.stages.get("train")
        result = record.result if record is not None and record.state == "done" else None
        return result if isinstance(result, TrainResult) else None
