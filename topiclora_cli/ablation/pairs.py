"""Which results of two cells belong together: the same seeds, the same tasks, the same questions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.evaluation.metrics import CHOICE_LOSS
from topiclora_cli.recipe import BASE, Recipe
from topiclora_cli.reporting.formats import mean_name

BySeed = Mapping[int, CellResult]
Array = np.ndarray
# What of a recipe says which questions are asked.
_ASKED = {"tasks", "limit", "samples", "include_path", "datasets_dir", "questions"}


def some(by_seed: BySeed) -> CellResult:
    """A cell's first result, for what all seeds have in common."""
    return next(iter(by_seed.values()))


def metric_of(by_seed: BySeed) -> str:
    """What a cell's score is a mean of."""
    result = some(by_seed)
    return mean_name(result.mean, result.scores.tasks)


def paired(name: str, by_seed: BySeed, other_name: str, other: BySeed) -> list[tuple[int, CellResult, CellResult]]:
    """The seeds of which both cells have a result; the base has the same for every one."""
    if name == BASE and by_seed:
        return [(seed, some(by_seed), each) for seed, each in other.items()]
    if other_name == BASE and other:
        return [(seed, each, some(other)) for seed, each in by_seed.items()]
    return [(seed, own, other[seed]) for seed, own in by_seed.items() if seed in other]


def of_questions(result: CellResult, metric: str) -> dict[str, Array]:
    """What every question of each task that counts adds to its headline metric, or to the choice loss, by task.

    Empty where a task has none.
    """
    rows = {row.task: row for row in result.scores.tasks}
    found = {}
    for task in sorted(result.mean.of):
        name = CHOICE_LOSS if metric == CHOICE_LOSS else rows[task].metric
        scores = result.by_question.get(task, {}).get(f"{name},{rows[task].filter}")
        if not scores:
            return {}
        found[task] = np.array(scores)
    return found


def differences(pairs: Sequence[tuple[int, CellResult, CellResult]], metric: str) -> list[Array]:
    """Of each task the differences of pairs (seeds, questions), in the order of tasks' names.

    Empty of cells that were not asked the same, or whose questions nobody kept.
    """
    ours = [of_questions(one, metric) for _, one, _ in pairs]
    theirs = [of_questions(two, metric) for _, _, two in pairs]
    asked = {tuple((task, len(values)) for task, values in each.items()) for each in (*ours, *theirs)}
    if len(asked) != 1 or asked == {()}:
        return []
    tasks = [task for task, _ in asked.pop()]
    return [np.stack([one[task] - two[task] for one, two in zip(ours, theirs, strict=True)]) for task in tasks]


def oddity(by_seed: BySeed, recipe: Recipe | None, other: BySeed, other_recipe: Recipe | None) -> str:
    """Why a cell cannot be set beside another, in words; empty where it can."""
    one, two = some(by_seed), some(other)
    measured = [(metric_of(each), some(each).mean.unit, some(each).mean.higher_is_better) for each in (by_seed, other)]
    if measured[0] != measured[1]:
        return f"it is scored by {measured[0][0]}, not by {measured[1][0]}"
    if set(one.mean.of) != set(two.mean.of):
        return "it was asked other tasks"
    counts = [{row.task: row.count for row in each.scores.tasks if row.task in each.mean.of} for each in (one, two)]
    if counts[0] != counts[1] or (recipe and other_recipe and _asked(recipe) != _asked(other_recipe)):
        return "it was asked other questions"
    return ""


def _asked(recipe: Recipe) -> tuple[Any, ...]:
    questions = recipe.eval.questions
    filtered = recipe.data.filter if questions is not None and questions.filter is None else None
    return recipe.eval.model_dump(include=_ASKED), filtered
