"""What is done with a trained run: scored, studied, exported, asked, compared, and loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topiclora_cli.api.given import Folder, name_of, open_run, open_trained, path_of, recipe_of, shown
from topiclora_cli.runs.progress import LoggedProgress, Progress
from topiclora_cli.runs.results.evaluation import EvalSummary
from topiclora_cli.runs.results.route import PromptRoute
from topiclora_cli.runs.run import RunDir

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from topiclora_cli.evaluation.comparison.compare import Compared
    from topiclora_cli.stages.merge import MergeResult
    from topiclora_cli.stages.studies import Studies
    from topiclora_cli.topics.prior import TopicPrior


def evaluate(
    run: RunDir | Folder, *, name: str | None = None, progress: Progress | None = None, **settings: Any
) -> EvalSummary:
    """Score a run's adapter and its base on the same questions, by lm-evaluation-harness.

    settings: keys of the recipe's eval section, as tasks=["arc_easy"], limit=100. name: of the folder under RUN/eval.
    Raises TopicLoraError for a run without an adapter, and for tasks that cannot be scored.
    """
    from topiclora_cli.stages.evaluate import evaluate as stage

    recipe, opened = open_trained(run, "eval", settings)
    with opened.lock():
        return stage(recipe, opened, shown(progress), name=name)


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

    recipe, opened = open_trained(run, "eval", settings)
    wanted = Wanted(routing, tuple(probes), None if against is None else Path(against), questions)
    with opened.lock():
        return stage(recipe, opened, shown(progress), wanted, name=name)


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

    recipe, opened = open_trained(run, "merge", settings)
    place = None if out is None else Path(path_of(out, "folder"))
    with opened.lock():
        return stage(recipe, opened, shown(progress), name=name, out=place, force=force)


def route(run: RunDir | Folder, prompt: str, *, progress: Progress | None = None) -> PromptRoute:
    """What a prompt is about by the run's topic graph, and which experts it meets in the trained layers.

    Raises TopicLoraError for an empty or too long prompt, and for a run that has neither graph nor routers.
    """
    from topiclora_cli.stages.route import route_prompt

    opened = open_run(run)
    return route_prompt(recipe_of(opened), opened, prompt, shown(progress))


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

    names, wanted = [name_of(run) for run in runs], [tasks] if isinstance(tasks, str) else tasks
    return compared(names, baseline=None if baseline is None else name_of(baseline), metric=metric, tasks=wanted)


def load_model(run: RunDir | Folder) -> "tuple[PeftModel, PreTrainedTokenizerBase]":
    """A run's adapter on its base in the base's own numbers, in evaluation mode, and the tokenizer.

    Raises TopicLoraError where there is no adapter.
    """
    from topiclora_cli.stages.inputs import load_tuned

    opened = open_run(run)
    recipe = recipe_of(opened)
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

    opened = open_run(run)
    folder = graph_folder(opened, LoggedProgress()) or opened.require(GRAPH, made_by="build-graph")
    return TopicPrior(TopicGraph.load(folder), open_encoder(recipe_of(opened)))
