"""What makes a run: of a recipe, of a published checkpoint, or of another run that a topic comes to or leaves."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from topiclora_cli.api.given import (
    Folder,
    Overrides,
    name_of_topic,
    open_run,
    pairs_of,
    path_of,
    recipe_of,
    shown,
    start_new,
    start_or_open,
)
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.processes import in_first
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.whole import train_with_graph

if TYPE_CHECKING:
    from topiclora_cli.stages.add_topic import Added
    from topiclora_cli.stages.build_graph import GraphResult
    from topiclora_cli.stages.drop_topic import Dropped


@dataclass(frozen=True)
class Trained:
    """A run whose adapter is trained, and what the training found."""

    run: RunDir
    result: TrainResult

    @property
    def adapter(self) -> Path:
        """The adapter's folder, in peft's format."""
        return self.run.adapter


def start_run(recipe: Recipe | Folder, out: Folder | None = None, *, overrides: Overrides | None = None) -> RunDir:
    """Make the folder of a new run (default: runs/NAME-TIME); nothing is computed yet.

    Raises TopicLoraError for a wrong recipe, and where something else is at `out`.
    """
    return start_new(recipe, out, overrides)[1]


def build_graph(
    recipe: Recipe | RunDir | Folder,
    out: Folder | None = None,
    *,
    overrides: Overrides | None = None,
    progress: Progress | None = None,
) -> "GraphResult":
    """Stage 1: topics become experts, in a new run of a recipe or in a run that there is.

    Raises TopicLoraError for a bad taxonomy, or more experts than topics.
    """
    from topiclora_cli.stages.build_graph import build_graph as stage

    settings, run = start_or_open(recipe, out, overrides)
    with run.lock():
        return stage(settings, run, shown(progress))


def train(
    recipe: Recipe | RunDir | Folder,
    out: Folder | None = None,
    *,
    overrides: Overrides | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Stages 2 and 3: priors, routers and experts, in a new run of a recipe or in a run that there is.

    The topic graph is built first where the recipe needs one and the run has none. resume: go on from the last sound
    checkpoint. Under torchrun or accelerate, call it in every process. Raises TopicLoraError for bad data or settings,
    and errors.Interrupted after a signal, with a checkpoint saved.
    """
    settings, run = in_first(lambda: start_or_open(recipe, out, overrides))
    return Trained(run, train_with_graph(settings, run, shown(progress), resume=resume))


def import_checkpoint(
    path: Folder,
    out: Folder,
    *,
    base: str | None = None,
    top_k: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> RunDir:
    """A published mixture of LoRA as a run whose adapter computes exactly the same; `out` is what peft loads, too.

    base: the model that it goes on, unless the checkpoint's own name for it will do. top_k: of a MoLA, which does not
    say. Raises TopicLoraError for what cannot be read or represented, or does not fit the base.
    """
    from topiclora_cli.importing.imported import Asked
    from topiclora_cli.stages.import_adapter import import_adapter

    places = Path(path_of(path, "checkpoint")), Path(path_of(out, "folder"))
    return import_adapter(*places, shown(progress), base=base, asked=Asked(top_k), force=force).run


def add_topic(
    run: RunDir | Folder,
    topic: str,
    data: Folder,
    *,
    description: str = "",
    out: Folder | None = None,
    overrides: Overrides | None = None,
    progress: Progress | None = None,
) -> "Added":
    """A run with one topic and one expert more, at `out` or beside the trained run, which stays as it is.

    data: what a recipe's data.source names, whose examples are the topic's; description: what it is about. overrides:
    of this training, as {"train.epochs": 2, "data.prompt": "question"}. Raises TopicLoraError for a topic that is
    there, for data without usable rows and for a run in whose mixture topics cannot come and go, and errors.Interrupted
    after a signal; nothing is left at `out` then.
    """
    from topiclora_cli.stages.add_topic import add_topic as stage
    from topiclora_cli.topics.taxonomy import Topic

    opened, named = open_run(run), Topic(name_of_topic(topic), description.strip())
    return stage(
        recipe_of(opened),
        opened,
        shown(progress),
        topic=named,
        data=path_of(data, "data source"),
        overrides=pairs_of(overrides),
        out=None if out is None else Path(path_of(out, "folder")),
    )


def drop_topic(
    run: RunDir | Folder, topic: str, *, out: Folder | None = None, progress: Progress | None = None
) -> "Dropped":
    """A run without a topic, at `out` or beside the trained run, which stays as it is; nothing is trained.

    Its expert goes with it where it is no other topic's first choice. Raises TopicLoraError for a topic that is not
    there, and for a run in whose mixture topics cannot come and go.
    """
    from topiclora_cli.stages.drop_topic import drop_topic as stage

    opened, place = open_run(run), None if out is None else Path(path_of(out, "folder"))
    return stage(recipe_of(opened), opened, shown(progress), topic=name_of_topic(topic), out=place)
