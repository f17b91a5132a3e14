"""How unsure a run's topic graph is of each question's topics, and the scores along that."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from topiclora_cli.evaluation.by_entropy import Entropies, scores_by_entropy
from topiclora_cli.evaluation.by_topic import AskedText, scored_tasks
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.files import write_csv
from topiclora_cli.runs.results.entropy import ByEntropy, Profile
from topiclora_cli.runs.results.evaluation import EvalSummary, QuestionScores
from topiclora_cli.stages.inputs import open_encoder
from topiclora_cli.topics.distributions import entropy
from topiclora_cli.topics.prior import TopicPrior, topic_shares
from topiclora_cli.topics.store import TopicGraph

BY_ENTROPY = "by_entropy.csv"


def entropies_of(recipe: Recipe, asked: Mapping[str, Sequence[AskedText]], graph: Path) -> dict[str, list[float]]:
    """Of each task's questions the entropy of their topics by a graph, H(p(t | question)) in nats."""
    known = TopicGraph.load(graph)
    prior = TopicPrior(known, open_encoder(recipe))
    found = {}
    for task, questions in asked.items():
        relevance = prior([question.text for question in questions]).relevance
        found[task] = entropy(topic_shares(known, relevance)).tolist()
    return found


def along_entropy(summary: EvalSummary, answers: QuestionScores) -> ByEntropy | None:
    """An evaluation's scores along its questions' entropies; None where no task has a share."""
    if answers.entropy is None or not (keys := scored_tasks(summary, answers)):
        return None
    entropies = Entropies({task: np.array(answers.entropy[task]) for task in keys})
    tuned = [np.array([answers.tuned[task][key]]) for task, key in keys.items()]
    base = answers.base or {}
    if not all(key in base.get(task, {}) for task, key in keys.items()):
        return scores_by_entropy({"tuned": tuned}, entropies)
    before = [np.array([base[task][key]]) for task, key in keys.items()]
    change = {"tuned - base": [a - b for a, b in zip(tuned, before, strict=True)]}
    return scores_by_entropy({"base": before, "tuned": tuned}, entropies, differences=change)


def write_by_entropy(folder: Path, found: ByEntropy) -> None:
    """One row for each score and bin, and the slopes, as CSV."""
    rows = [line for name, each in {**found.profiles, **found.differences}.items() for line in _rows(name, each, found)]
    write_csv(folder / BY_ENTROPY, ["score", "part", "from", "to", "questions", "mean", "low", "high"], rows)


def _rows(name: str, each: Profile, found: ByEntropy) -> list[list[object]]:
    rows: list[list[object]] = []
    for number, bin_ in enumerate(each.bins):
        low, high = found.edges[min(number, len(found.edges) - 1)], found.edges[min(number + 1, len(found.edges) - 1)]
        part = f"quarter {number + 1}"
        rows.append([name, part, low, high, found.counts[number], bin_.mean, bin_.low, bin_.high])
    slopes = {"slope": each.slope, "slope within tasks": each.within}
    ends = found.edges[0], found.edges[-1]
    total = sum(found.counts)
    return rows + [[name, part, *ends, total, s.mean, s.low, s.high] for part, s in slopes.items() if s is not None]
