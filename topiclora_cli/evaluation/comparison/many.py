"""Many sides minus one baseline on the same questions: what `intervals` and `significance` say of one, for the price of
a few.

All sides were asked the same, so that one set of draws serves them all: how often a draw has each question, times what
each side has at it. A p-value of draws is at least two in their number, so that many sides have more draws, else none
could pass Holm's correction.
"""

import math
from collections.abc import Sequence

import numpy as np

from topiclora_cli.evaluation.comparison.intervals import DRAWS, Array, of_student, parts_of_draws
from topiclora_cli.evaluation.comparison.significance import MOST, PERMUTATION, Significance, of_draws

PER_SIDE, MOST_DRAWS = 200, 40_000  # draws a side: 2 in 200 is the smallest p-value after Holm's correction
_AT_ONCE = 2**18  # values drawn in one batch
_ALIKE = 1e-5  # sums that differ by less, as a part of the largest there can be, are the same

Side = Sequence[Array]  # of each task the differences (seeds, questions)


def task_weights(side: Side, *, by_task: bool) -> Array:
    """Every task alike, or every question."""
    sizes = np.array([each.shape[1] for each in side], dtype=float)
    return np.full(len(sizes), 1 / len(sizes)) if by_task else sizes / sizes.sum()


def many_means(sides: Sequence[Side], *, by_task: bool, draws: int = DRAWS, seed: int = 0) -> Array:
    """Of each side what intervals.drawn_means gives: its mean, then that in every draw (1 + draws, sides).

    Every side has the same numbers of questions.
    """
    weights = task_weights(sides[0], by_task=by_task)
    means = np.array([sum(w * task.mean() for w, task in zip(weights, side, strict=True)) for side in sides])
    strays = np.zeros((draws, len(sides)))
    for number, weight in enumerate(weights):
        values = np.stack([side[number].mean(0) for side in sides], axis=1)
        strays += weight * _strays(np.random.default_rng([seed, number]), values, draws)
    parts = [parts_of_draws(side, weights) for side in sides]
    strays *= np.array([left for left, _ in parts])
    scales, counts = np.array([scale for _, scale in parts]), np.array([len(side[0]) for side in sides])
    for count in sorted(set(counts.tolist()) - {1}):
        strays += np.outer(of_student(count, len(weights), draws, seed), np.where(counts == count, scales, 0.0))
    return np.concatenate([means[None], means + strays])


def significance_of_sides(
    sides: Sequence[Side], *, family: int, by_task: bool = True, seed: int = 0
) -> list[Significance]:
    """Of each side how likely a mean as far from zero is by chance: of one seed by flipping signs, else by draws.

    family: over how many sides the p-values are to be adjusted.
    """
    draws = min(MOST_DRAWS, max(DRAWS, PER_SIDE * family))
    found: dict[int, Significance] = {}
    single = [place for place, side in enumerate(sides) if len(side[0]) == 1]
    several = [place for place in range(len(sides)) if place not in set(single)]
    if several:
        group = [sides[place] for place in several]
        means = many_means(group, by_task=by_task, draws=draws, seed=seed)
        found |= {place: of_draws(column) for place, column in zip(several, means.T, strict=True)}
    if single:
        weights = task_weights(sides[0], by_task=by_task)
        values = [
            np.concatenate([w * task[0] / task.shape[1] for w, task in zip(weights, sides[place], strict=True)])
            for place in single
        ]
        found |= dict(zip(single, _of_signs(np.stack(values, axis=1), max(MOST, draws - 1), seed), strict=True))
    return [found[place] for place in range(len(sides))]


def _strays(random: np.random.Generator, values: Array, draws: int) -> Array:
    """How far the means of values (questions, sides) drawn anew stray from those of all (draws, sides)."""
    count = len(values)
    if count == 1:
        return np.zeros((draws, values.shape[1]))
    centred = values - values.mean(0)
    batch = max(1, _AT_ONCE // count)
    parts = []
    for start in range(0, draws, batch):
        size = min(batch, draws - start)
        places = random.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(places.ravel(), minlength=size * count).reshape(size, count)
        parts.append(times.astype(float) @ centred)
    strays: Array = np.concatenate(parts) * (math.sqrt(count / (count - 1)) / count)
    return strays


def _of_signs(values: Array, draws: int, seed: int) -> list[Significance]:
    """Of each column of values (questions, sides), whose sum is to be zero: exact where all signs can be tried."""
    few = [2 ** int((column != 0).sum()) <= MOST for column in values.T]
    found = [_exact(column[column != 0]) if all_of_it else 0.0 for column, all_of_it in zip(values.T, few, strict=True)]
    if many := [place for place, all_of_it in enumerate(few) if not all_of_it]:
        drawn = _drawn_signs(values[:, many], draws, seed)
        found = [drawn.pop(0) if not all_of_it else p for p, all_of_it in zip(found, few, strict=True)]
    return [Significance(p, PERMUTATION) for p in found]


def _exact(values: Array) -> float:
    places = np.arange(len(values))
    signs = 1.0 - 2.0 * ((np.arange(2 ** len(values))[:, None] >> places) & 1)
    return _tail(signs @ values, values, added=0)


def _drawn_signs(values: Array, draws: int, seed: int) -> list[float]:
    random, count = np.random.default_rng(seed), len(values)
    small = values.astype(np.float32)
    sums, batch = [], max(1, _AT_ONCE // count)
    for start in range(0, draws, batch):
        signs = random.integers(0, 2, (min(batch, draws - start), count), dtype=np.int8).astype(np.float32)
        sums.append((2 * signs - 1) @ small)
    drawn = np.concatenate(sums)
    return [_tail(column, own, added=1) for column, own in zip(drawn.T, values.T, strict=True)]


def _tail(sums: Array, values: Array, *, added: int) -> float:
    """Two-sided; added: the sums do not hold the one that was seen, which counts too (Phipson and Smyth 2010)."""
    seen, slack = values.sum(), _ALIKE * np.abs(values).sum()
    least = min(int((sums <= seen + slack).sum()), int((sums >= seen - slack).sum()))
    return min(1.0, 2 * (least + added) / (len(sums) + added))
