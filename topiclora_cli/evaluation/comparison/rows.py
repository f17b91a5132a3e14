"""Rows of a comparison: a task's, a group's by lm-eval's own weights, and the mean of tasks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topiclora_cli.evaluation.comparison.intervals import Drawn, drawn_means, interval
from topiclora_cli.evaluation.comparison.significance import of_differences, of_draws
from topiclora_cli.runs.results.interval import Interval

MEAN = "mean of tasks"


@dataclass(frozen=True)
class Row:
    """A score beside the baseline's on `count` questions; difference: the score minus the baseline's.

    p: two-sided, by `test`; p_holm: adjusted over the tasks, NaN for groups and the mean, which are no further tests.
    """

    task: str
    metric: str
    filter: str
    unit: str
    higher_is_better: bool | None
    count: int
    baseline: float
    score: float
    difference: Interval
    p: float
    test: str
    p_holm: float = math.nan


Groups = Mapping[str, tuple[Sequence[str], Mapping[str, float]]]


def aggregates(rows: Sequence[Row], drawn: Mapping[str, Drawn], groups: Groups) -> list[Row]:
    """Rows of lm-eval's groups all of whose tasks are there, and the unweighted mean of tasks of one metric."""
    by_task = {row.task: row for row in rows}
    found = []
    for name, (tasks, values) in groups.items():
        if tasks and all(task in by_task for task in tasks):
            members = [by_task[task] for task in tasks]
            key = f"{members[0].metric},{members[0].filter}"
            weights = _weights(members, values.get(key))
            if weights is not None and _alike(members):
                found.append(_combined(name, members, weights, drawn))
    if len(rows) > 1 and _alike(rows):
        found.append(_combined(MEAN, rows, [1 / len(rows)] * len(rows), drawn))
    return found


def _alike(rows: Sequence[Row]) -> bool:
    return len({(row.unit, row.higher_is_better, row.metric if row.unit != "share" else "") for row in rows}) == 1


def _weights(members: Sequence[Row], value: float | None) -> list[float] | None:
    """By size or alike, whichever gives lm-eval's value of the baseline; by size, lm-eval's default, for neither.

    lm-eval's files do not say which of the two a group has. None where it does not aggregate the metric.
    """
    if value is None:
        return None
    total = sum(row.count for row in members)
    by_size, alike = [row.count / total for row in members], [1 / len(members)] * len(members)
    mean = sum(weight * row.baseline for weight, row in zip(alike, members, strict=True))
    return alike if math.isclose(mean, value, abs_tol=1e-9) else by_size


def _combined(name: str, rows: Sequence[Row], weights: Sequence[float], drawn: Mapping[str, Drawn]) -> Row:
    pairs = list(zip(weights, rows, strict=True))
    shares: dict[str, float] = {}
    for weight, row in pairs:
        shares[row.task] = shares.get(row.task, 0.0) + weight
    means = drawn_means([drawn[task] for task in shares], list(shares.values()))
    names = {row.metric for row in rows}
    differences = [weight * drawn[task].differences / drawn[task].differences.size for task, weight in shares.items()]
    single = all(len(each) == 1 for each in differences)
    tested = of_differences(np.concatenate(differences, axis=1)[0]) if single else of_draws(means)
    return Row(
        task=name,
        metric=names.pop() if len(names) == 1 else "shares",
        filter=rows[0].filter,
        unit=rows[0].unit,
        higher_is_better=rows[0].higher_is_better,
        count=sum({row.task: row.count for row in rows}.values()),
        baseline=sum(weight * row.baseline for weight, row in pairs),
        score=sum(weight * row.score for weight, row in pairs),
        difference=interval(means),
        p=tested.p,
        test=tested.test,
    )
