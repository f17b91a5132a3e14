"""Each cell's measures over its seeds, and how far it is from others on the same questions, tested over all cells."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np

from topiclora_cli.ablation.pairs import Array, BySeed, differences, metric_of, of_questions, paired, some
from topiclora_cli.evaluation.comparison.intervals import intervals
from topiclora_cli.evaluation.comparison.many import many_means, significance_of_sides, task_weights
from topiclora_cli.evaluation.comparison.significance import Significance, holm
from topiclora_cli.evaluation.metrics import CHOICE_LOSS
from topiclora_cli.runs.results.ablation import LEVELS, Difference, Measure

Against = dict[str, dict[str, Difference]]  # by cell and level


def measures(by_seed: BySeed) -> dict[str, Measure]:
    """A cell's metric and its choice loss, as far as its questions were kept, compared with nobody yet."""
    found = {}
    for metric in (metric_of(by_seed), CHOICE_LOSS):
        values = [list(of_questions(result, metric).values()) for result in by_seed.values()]
        if not all(values):
            continue
        seeds = {
            "tasks": [fmean(float(task.mean()) for task in tasks) for tasks in values],
            "questions": [float(np.concatenate(tasks).mean()) for tasks in values],
        }
        loss, mean = metric == CHOICE_LOSS, some(by_seed).mean
        found[metric] = Measure(
            unit="nats" if loss else mean.unit,
            higher_is_better=False if loss else mean.higher_is_better,
            mean={level: fmean(each) for level, each in seeds.items()},
            deviation={level: stdev(each) if len(each) > 1 else None for level, each in seeds.items()},
        )
    return found


def against(cells: Mapping[str, BySeed], other: str, metric: str, *, family: int = 0) -> Against:
    """Every cell minus the one called `other`, where they share seeds and questions.

    family: how many cells are to be compared with it in all, by which the p-values of means of tasks are adjusted;
    without one nothing is tested.
    """
    sides = {
        name: side
        for name, by_seed in cells.items()
        if name != other and (side := differences(paired(name, by_seed, other, cells.get(other, {})), metric))
    }
    found: Against = {}
    for names in _alike(sides):
        group = [sides[name] for name in names]
        weightings = [task_weights(group[0], by_task=level == "tasks") for level in LEVELS]
        for level, means in zip(LEVELS, many_means(group, weightings), strict=True):
            for name, each in zip(names, intervals(means), strict=True):
                seeds = len(sides[name][0])
                found.setdefault(name, {})[level] = Difference(each.mean, each.low, each.high, seeds=seeds)
    return _tested(found, sides, family) if family else found


def _tested(found: Against, sides: Mapping[str, Sequence[Array]], family: int) -> Against:
    tests: dict[str, Significance] = {}
    for names in _alike(sides):
        group = [sides[name] for name in names]
        tests |= dict(zip(names, significance_of_sides(group, family=family), strict=True))
    # A cell that is not finished may come to no difference at all: what is said now holds then, too.
    waiting = [1.0] * (family - len(tests))
    adjusted = holm([*(test.p for test in tests.values()), *waiting])
    for (name, test), p in zip(tests.items(), adjusted, strict=False):
        levels = found[name]
        levels["tasks"] = replace(levels["tasks"], p=test.p, test=test.test, p_holm=p, family=family)
    return found


def _alike(sides: Mapping[str, Sequence[Array]]) -> list[list[str]]:
    """Names of sides with the same numbers of questions."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, side in sides.items():
        groups.setdefault(tuple(each.shape[1] for each in side), []).append(name)
    return list(groups.values())
