"""The stages of a run as functions for Python users, without a terminal.

Each takes a run, as a RunDir or its folder; `start_run`, `build_graph` and `train` also take a recipe, and make a run
of it: a Recipe, a recipe file, or the name of a bundled one. What a stage says goes to the logger `topiclora_cli`, at
level INFO, unless it is given a `progress` (runs/progress.py). A mistake of the caller's is a TopicLoraError.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, altered
from topiclora_cli.recipe import load_recipe as read_recipe
from topiclora_cli.runs.processes import in_first
from topiclora_cli.runs.progress import LoggedProgress, Progress
from topiclora_cli.runs.results.evaluation import EvalSummary
from topiclora_cli.runs.results.route import PromptRoute
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import MANIFEST, RECIPE, RunDir
from topiclora_cli.stages.whole import start_run as start
from topiclora_cli.stages.whole import train_with_graph

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from topiclora_cli.evaluation.comparison.compare import Compared
    from topiclora_cli.stages.build_graph import GraphResult
    from topiclora_cli.stages.merge import MergeResult
    from topiclora_cli.stages.studies import Studies
    from topiclora_cli.topics.prior import TopicPrior

Folder = str | os.PathLike[str]
Overrides = Mapping[str, Any]  # dotted key -> value, as {"train.max_steps": 50}


@dataclass(frozen=True)
class Trained:
    """A run whose adapter is trained, and what the training found."""

    run: RunDir
    result: TrainResult

    @property
    def adapter(self) -> Path:
        """The adapter's folder, in peft's format."""
        return self.run.adapter


def load_recipe(name: Folder, overrides: Overrides | None = None) -> Recipe:
    """Read and check a recipe: a file, or a bundled one by name. Raises TopicLoraError naming file, key and fix."""
    changes = {} if overrides is None else overrides
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise TopicLoraError(
            f"overrides is no mapping of dotted keys to values: {str(changes)[:60]!r}.",
            'Example: {"train.max_steps": 50}',
        )
    return read_recipe(_path(name, "recipe"), changes.items())


def start_run(recipe: Recipe | Folder, out: Folder | None = None, *, overrides: Overrides | None = None) -> RunDir:
    """Make the folder of a new run (default: runs/NAME-TIME); nothing is computed yet.

    Raises TopicLoraError for a wrong recipe, and where something else is at `out`.
    """
    return _start(recipe, out, overrides)[1]


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

    settings, run = _start_or_open(recipe, out, overrides)
    with run.lock():
        return stage(settings, run, _shown(progress))


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
    settings, run = in_first(lambda: _start_or_open(recipe, out, overrides))
    return Trained(run, train_with_graph(settings, run, _shown(progress), resume=resume))


def evaluate(
    run: RunDir | Folder, *, name: str | None = None, progress: Progress | None = None, **settings: Any
) -> EvalSummary:
    """Score a run's adapter and its base on the same questions, by lm-evaluation-harness.

    settings: keys of the recipe's eval section, as tasks=["arc_easy"], limit=100. name: of the folder under RUN/eval.
    Raises TopicLoraError for a run without an adapter, and for tasks that cannot be scored.
    """
    from topiclora_cli.stages.evaluate import evaluate as stage

    recipe, opened = _open_trained(run, "eval", settings)
    with opened.lock():
        return stage(recipe, opened, _shown(progress), name=name)


def study(
    run: RunDir | Folder,
    *,
    name: str,
    routing: bool = True,
    probes: Sequence[str] = (),
    against: Folder | None = None,
    questions: int = 10,
    progress: Progress | None = None,
    **settings: Any,
) -> "Studies":
    """What the routers of a run did, and what changed prompts do to it, on the tasks of the evaluation `name`.

    questions: of each task. against: a run whose adapter gets the same probes. settings: keys of the recipe's eval
    section, as of `evaluate`. Raises TopicLoraError for a probe or a run that there is not.
    """
    from topiclora_cli.stages.studies import Wanted
    from topiclora_cli.stages.studies import study as stage

    recipe, opened = _open_trained(run, "eval", settings)
    wanted = Wanted(routing, tuple(probes), None if against is None else Path(against), questions)
    with opened.lock():
        return stage(recipe, opened, _shown(progress), wanted, name=name)


def merge(
    run: RunDir | Folder,
    *,
    name: str | None = None,
    out: Folder | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> "MergeResult":
    """Export a run's adapter as what others load, and how far each part of that is from the routed model.

    settings: keys of the recipe's merge section, as gates="topic:arithmetic", formats=["lora"]. name: of the folder
    under RUN/merged; out: another folder, which must not exist unless `force`. Raises TopicLoraError for an adapter
    that equals no LoRA, and for an export beyond merge.max_gap.
    """
    from topiclora_cli.stages.merge import merge as stage

    recipe, opened = _open_trained(run, "merge", settings)
    place = None if out is None else Path(_path(out, "folder"))
    with opened.lock():
        return stage(recipe, opened, _shown(progress), name=name, out=place, force=force)


def route(run: RunDir | Folder, prompt: str, *, progress: Progress | None = None) -> PromptRoute:
    """What a prompt is about by the run's topic graph, and which experts it meets in the trained layers.

    Raises TopicLoraError for an empty or too long prompt, and for a run that has neither graph nor routers.
    """
    from topiclora_cli.stages.route import route_prompt

    opened = _run(run)
    return route_prompt(_recipe_of(opened), opened, prompt, _shown(progress))


def compare(
    *runs: RunDir | Folder,
    baseline: RunDir | Folder | None = None,
    metric: str | None = None,
    tasks: Sequence[str] = (),
) -> "list[Compared]":
    """Evaluated runs against a baseline, question by question: differences with 95 % intervals, and tests of them.

    Runs of one recipe that differ in their seed are one side. baseline: a run, or `base`, the first run's base model;
    the first run by default. Raises TopicLoraError for runs without an evaluation, or without a question in common.
    """
    from topiclora_cli.evaluation.comparison.compare import compare as compared

    names, wanted = [_name(run) for run in runs], [tasks] if isinstance(tasks, str) else tasks
    return compared(names, baseline=None if baseline is None else _name(baseline), metric=metric, tasks=wanted)


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

    places = Path(_path(path, "checkpoint")), Path(_path(out, "folder"))
    return import_adapter(*places, _shown(progress), base=base, asked=Asked(top_k), force=force).run


def load_model(run: RunDir | Folder) -> "tuple[PeftModel, PreTrainedTokenizerBase]":
    """A run's adapter on its base in the base's own numbers, in evaluation mode, and the tokenizer.

    Raises TopicLoraError where there is no adapter.
    """
    from topiclora_cli.stages.inputs import load_tuned

    opened = _run(run)
    recipe = _recipe_of(opened)
    # Weights that are kept in bfloat16 want autocast, of which the model's caller knows nothing.
    plain = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": "float32"})})
    base, model = load_tuned(plain, opened)
    return model, base.tokenizer


def load_prior(run: RunDir | Folder) -> "TopicPrior":
    """A run's topic graph and text encoder as a function from prompts to priors over experts.

    The graph is the one that the adapter was trained with, before training the run's own. Raises TopicLoraError for a
    run without one.
    """
    from topiclora_cli.stages.inputs import GRAPH, graph_folder, open_encoder
    from topiclora_cli.topics.prior import TopicPrior
    from topiclora_cli.topics.store import TopicGraph

    opened = _run(run)
    folder = graph_folder(opened, LoggedProgress()) or opened.require(GRAPH, made_by="build-graph")
    return TopicPrior(TopicGraph.load(folder), open_encoder(_recipe_of(opened)))


def _start(recipe: Recipe | Folder, out: Folder | None, overrides: Overrides | None) -> tuple[Recipe, RunDir]:
    if isinstance(recipe, Recipe):
        wanted = altered(recipe, dict(overrides).items(), where="overrides") if overrides else recipe
    else:
        wanted = load_recipe(recipe, overrides)
    return start(wanted, out)


def _start_or_open(
    recipe: Recipe | RunDir | Folder, out: Folder | None, overrides: Overrides | None
) -> tuple[Recipe, RunDir]:
    if not isinstance(recipe, Recipe) and (
        isinstance(recipe, RunDir) or (Path(_path(recipe, "recipe")) / MANIFEST).is_file()
    ):
        opened = _run(recipe)
        if out is not None:
            raise TopicLoraError(f"{opened.path} is a run, and out={str(out)!r} asks for a new one.", "Leave out one.")
        return _recipe_of(opened, overrides), opened
    return _start(recipe, out, overrides)


def _open_trained(run: RunDir | Folder, section: str, settings: Mapping[str, Any]) -> tuple[Recipe, RunDir]:
    opened = _run(run)
    opened.require("adapter", made_by="train")
    return _recipe_of(opened, {f"{section}.{key}": value for key, value in settings.items()}), opened


def _run(run: RunDir | Folder) -> RunDir:
    return run if isinstance(run, RunDir) else RunDir(_path(run, "run"))


def _name(run: RunDir | Folder) -> str:
    return str(run.path) if isinstance(run, RunDir) else _path(run, "run")


def _path(given: Folder, what: str) -> str:
    try:
        return os.fspath(given)
    except TypeError:
        hint = "A run that train returned is its .run." if isinstance(given, Trained) else "Give its path."
        raise TopicLoraError(f"What was given is no {what}, but of type {type(given).__name__}.", hint) from None


def _recipe_of(run: RunDir, overrides: Overrides | None = None) -> Recipe:
    return load_recipe(run.path / RECIPE, overrides)


def _shown(progress: Progress | None) -> Progress:
    return progress if progress is not None else LoggedProgress()
