"""Scores of several models by the topic of each question, which is the same for all: by the graph of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.by_topic import scored_tasks, scores_of_parts
from topiclora_cli.evaluation.results import EvalResults, by_question
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.files import write_csv
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.evaluation import QuestionScores
from topiclora_cli.runs.results.models import Measured, ModelsByTopic
from topiclora_cli.runs.run import RECIPE, RunDir
from topiclora_cli.stages.by_topic import BY_TOPIC, FIGURES, Asked, topics_of
from topiclora_cli.stages.contenders import BASE, owner
from topiclora_cli.stages.inputs import graph_folder
from topiclora_cli.topics.store import TopicGraph


@dataclass(frozen=True)
class Sorting:
    """Of each task's questions the topics, by the graph of the run of that name; sha256: the graph's."""

    graph: str
    sha256: str
    topics: Mapping[str, Sequence[tuple[str, ...]]]


def sort_questions(names: Sequence[str], parent: Path, asked: Asked, progress: Progress) -> Sorting:
    """Sort questions by the graph of the run named first that has one, else by that of the run which `parent` lies in.

    Raises TopicLoraError where no run has a graph.
    """
    runs = (owner(name) for name in (*names, str(parent)) if name != BASE)
    for run in runs:
        if run is not None and (graph := graph_folder(run, progress)) is not None:
            return _sorted(run, graph, asked)
    raise TopicLoraError(
        "eval.by_topic sorts questions by the topics of a run's graph, and no run that is named has one.",
        "Name one with --run, or leave --by-topic out.",
    )


def models_by_topic(
    sorting: Sorting, measured: Sequence[Measured], results: Sequence[EvalResults]
) -> ModelsByTopic | None:
    """Every model's scores by topic beside the first's, over tasks that all have; None where these have no share."""
    answers = {each.label: by_question(found) for each, found in zip(measured, results, strict=True)}
    first = measured[0]
    keys = {
        task: key
        for task, key in scored_tasks(first.scores, QuestionScores(answers[first.label])).items()
        if all(key in own.get(task, {}) for own in answers.values())
    }
    if not keys:
        return None
    found = {
        label: scores_of_parts(
            sorting.topics, QuestionScores(own, None if label == first.label else answers[first.label]), keys
        )
        for label, own in answers.items()
    }
    return ModelsByTopic(sorting.graph, tuple(keys), found)


def write_models_by_topic(folder: Path, found: ModelsByTopic) -> None:
    """A row for every model and topic, as CSV."""
    rows = [
        [label, part.part, part.count, *(getattr(part, figure) for figure in FIGURES), found.graph]
        for label, parts in found.models.items()
        for part in parts
    ]
    write_csv(folder / BY_TOPIC, ["model", "topic", "questions", *FIGURES, "graph"], rows)


def _sorted(run: RunDir, graph: Path, asked: Asked) -> Sorting:
    recipe = load_recipe(str(run.path / RECIPE))
    return Sorting(run.path.resolve().name, TopicGraph.load(graph).sha256, topics_of(recipe, asked, graph))
