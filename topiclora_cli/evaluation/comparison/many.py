"""Many sides minus one baseline on the same questions: what `intervals` and `significance` say of one, for the price of
a few.

All sides were asked the same, so that one set of draws serves them all: how often a draw has each question, times what
each side has at it. A p-value of draws is at least two in their number, so that many sides have more draws, else none
could pass Holm's correction; they are drawn for those alone that differ enough to need them.
"""

from collections.abc import Sequence

import numpy as np

from topiclora_cli.evaluation.comparison.drawing import Array, strays
from topiclora_cli.evaluation.comparison.intervals import DRAWS, of_student, parts_of_draws
from topiclora_cli.evaluation.comparison.significance import MOST, PERMUTATION, Significance, of_draws

PER_SIDE, MOST_DRAWS = 200, 40_000  # draws a side: 2 in 200 is the smallest p-value after Holm's correction
_RARE = 2 * 20 / DRAWS  # of fewer draws than 20 on the other side a p-value is too coarse
_AT_ONCE = 2**18  # signs drawn in one batch
_ALIKE = 1e-5  # sums that differ by less, as a part of the largest there can be, are the same

Side = Sequence[Array]  # of each task the differences (seeds, questions)


def task_weights(side: Side, *, by_task: bool) -> Array:
    """Every task alike, or every question."""
    sizes = np.array([each.shape[1] for each in side], dtype=float)
    return np.full(len(sizes), 1 / len(sizes)) if by_task else sizes / sizes.sum()


def many_means(sides: Sequence[Side], weightings: Sequence[Array], *, draws: int = DRAWS, seed: int = 0) -> list[Array]:
    """By each weighting of tasks what intervals.drawn_means gives of each side: its mean, then that in every draw
    (1 + draws, sides).

    Every side has the same numbers of questions.
    """
    values, left, scale = _of_seeds(sides, weightings)
    columns = [
        np.concatenate([weights[task] * own[:, None] * each for weights, own in zip(weightings, left, strict=True)]).T
        for task, each in enumerate(values)
    ]
    drawn = strays(columns, [np.random.default_rng([seed, task]) for task in range(len(columns))], draws)
    seeds = np.array([len(side[0]) for side in sides])
    for count in set(seeds.tolist()) - {1}:
        drawn += np.outer(of_student(count, len(columns), draws, seed), np.where(seeds == count, scale, 0.0))
    means = np.array(weightings) @ np.stack([each.mean(1) for each in values])
    drawn += means.ravel()
    found = np.split(drawn, len(weightings), axis=1)
    return [np.concatenate([mean[None], each]) for mean, each in zip(means, found, strict=True)]


def significance_of_sides(
    sides: Sequence[Side], *, family: int, by_task: bool = True, seed: int = 0
) -> list[Significance]:
    """Of each side how likely a mean as far from zero is by chance: of one seed by flipping signs, else by draws.

    family: over how many sides the p-values are to be adjusted.
    """
    most = min(MOST_DRAWS, max(DRAWS, PER_SIDE * family))
    weights = task_weights(sides[0], by_task=by_task)
    found: dict[int, Significance] = {}
    single = [place for place, side in enumerate(sides) if len(side[0]) == 1]
    several = [place for place in range(len(sides)) if place not in set(single)]
    if several:
        found |= _of_draws(sides, several, weights, DRAWS, seed)
        if most > DRAWS and (rare := [place for place in several if found[place].p <= _RARE]):
            found |= _of_draws(sides, rare, weights, most, seed)
    if single:
        values = [
            np.concatenate([w * task[0] / task.shape[1] for w, task in zip(weights, sides[place], strict=True)])
            for place in single
        ]
        found |= dict(zip(single, _of_signs(np.stack(values, axis=1), max(MOST, most - 1), seed), strict=True))
    return [found[place] for place in range(len(sides))]


def _of_seeds(sides: Sequence[Side], weightings: Sequence[Array]) -> tuple[list[Array], Array, Array]:
    """Of each task the means over seeds (sides, questions), and by each weighting what intervals.parts_of_draws gives,
    both (weightings, sides)."""
    tasks, seeds = range(len(sides[0])), np.array([len(side[0]) for side in sides])
    values = [np.empty((len(sides), each.shape[1])) for each in sides[0]]
    left, scale = np.empty((2, len(weightings), len(sides)))
    for places in (np.flatnonzero(seeds == count) for count in np.unique(seeds)):
        alike = [np.stack([sides[place][task] for place in places.tolist()]) for task in tasks]
        for own, each in zip(values, alike, strict=True):
            own[places] = each.mean(1)
        for number, weights in enumerate(weightings):
            left[number, places], scale[number, places] = parts_of_draws(alike, weights)
    return values, left, scale


def _of_draws(
    sides: Sequence[Side], places: Sequence[int], weights: Array, draws: int, seed: int
) -> dict[int, Significance]:
    (means,) = many_means([sides[place] for place in places], [weights], draws=draws, seed=seed)
    return {place: of_draws(column) for place, column in zip(places, means.T, strict=True)}


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
