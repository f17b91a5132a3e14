"""The difference of two sides on the same questions and seeds, with an interval over both.

Every seed answers every question. Questions are drawn anew (bootstrap), each for both sides alike; tasks are what a
study is about and are not drawn. Values drawn from few vary too little, by (n - 1) / n, and are scaled up for it
(Davison and Hinkley 1997, section 3.8). Seeds are too few to be drawn anew: their mean is drawn from Student's t, once
from each of as many equally likely parts of it as there are draws.

What seeds do to single questions is in the draws of both, and may count once. It is taken out of the questions' draws,
as in the analysis of variance of crossed effects, and left in those of seeds, which have few degrees of freedom to know
it by. The other way round seeds that happen to agree count for nothing, which with two or three happens often.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

from topiclora_cli.evaluation.comparison.drawing import Array, strays
from topiclora_cli.runs.results.interval import Interval

DRAWS = 4000
LEVEL = 0.95
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@dataclass(frozen=True)
class Drawn:
    """A task's differences (seeds, questions), and how far draws of its questions lead from their mean (draws,)."""

    differences: Array
    strays: Array


def paired_interval(differences: Sequence[Array], *, by_task: bool, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of differences (seeds, questions) of each task: over tasks, or with by_task off over all questions.

    With one seed the interval is over questions alone.
    """
    sizes = np.array([each.shape[1] for each in differences], dtype=float)
    weights = np.full(len(sizes), 1 / len(sizes)) if by_task else sizes / sizes.sum()
    return interval(drawn_means(list(draw_questions(differences, draws=draws, seed=seed)), weights, seed=seed))


def draw_questions(differences: Sequence[Array], *, draws: int = DRAWS, seed: int = 0) -> Iterator[Drawn]:
    """Draw the questions of each task anew, the same ones at every call with the same sizes."""
    for number, each in enumerate(differences):
        values = each.mean(0)[:, None]
        yield Drawn(each, strays([values], [np.random.default_rng([seed, number])], draws)[:, 0])


def drawn_means(tasks: Sequence[Drawn], weights: Sequence[float] | Array, *, seed: int = 0) -> Array:
    """The weighted mean difference of tasks: first as it is, then in every draw (1 + draws,)."""
    weighted = list(zip(weights, tasks, strict=True))
    draws = len(tasks[0].strays)
    mean = float(sum(weight * task.differences.mean() for weight, task in weighted))
    differences, shares = [task.differences for _, task in weighted], [weight for weight, _ in weighted]
    away = np.sum([weight * task.strays for weight, task in weighted], axis=0)
    (left,), (scale,) = parts_of_draws([each[None] for each in differences], shares)
    total = mean + away * left
    if scale:
        total += scale * of_student(len(differences[0]), len(differences), draws, seed)
    return np.concatenate([[mean], total])


def parts_of_draws(tasks: Sequence[Array], weights: Sequence[float] | Array) -> tuple[Array, Array]:
    """Of each side how much of the draws of questions is left without what seeds do to single ones, and by how much
    draws of Student's t of seeds lead from the weighted mean of tasks' differences (sides, seeds, questions).

    A single seed says nothing of others: 1 and 0. So it is for seeds whose means are one number, as of few questions
    they happen to be: no draws of seeds say then what would be taken out of those of questions.
    """
    sides, seeds, _ = tasks[0].shape
    if seeds == 1:
        return np.ones(sides), np.zeros(sides)
    means = np.sum([weight * each.mean(2) for weight, each in zip(weights, tasks, strict=True)], axis=0)
    spread = means.var(1, ddof=1) / seeds
    rest, whole = np.zeros(sides), np.zeros(sides)
    for weight, each in zip(weights, tasks, strict=True):
        questions = each.shape[2]
        if questions > 1:
            rest += weight**2 * _rest(each) / (seeds * questions)
            whole += weight**2 * each.mean(1).var(1, ddof=1) / questions
    share = np.divide(rest, whole, out=np.zeros(sides), where=whole > 0)
    left = np.where(spread > 0, np.sqrt(np.maximum(0.0, 1 - share)), 1.0)
    return left, np.sqrt(spread)


@lru_cache(maxsize=16)
def of_student(seeds: int, tasks: int, draws: int, seed: int) -> Array:
    """The medians of equally likely parts of Student's t with a degree of freedom fewer than seeds, shuffled as a Latin
    hypercube is (McKay, Beckman and Conover 1979), the same way for as many tasks (draws,)."""
    # Drawn freely, its ends lean to one side by up to a fifth, and alike wherever there are as many seeds and tasks.
    parts: Array = stdtrit(seeds - 1, (np.arange(draws) + 0.5) / draws)
    return np.random.default_rng([seed, tasks]).permutation(parts)


def interval(means: Array) -> Interval:
    """The interval of what `drawn_means` gives."""
    return intervals(means[:, None])[0]


def intervals(means: Array) -> list[Interval]:
    """The interval of every column of means, then draws (1 + draws, sides)."""
    # As np.quantile has it, which takes three times as long to part a column at four places as it takes to sort it.
    draws = np.ascontiguousarray(means[1:].T)
    draws.sort(axis=1)
    places = np.array(_ENDS) * (draws.shape[1] - 1)
    below = places.astype(int)
    low, high = draws[:, below], draws[:, below + 1]
    ends = low + (places - below) * (high - low)
    return [Interval(float(mean), *map(float, each)) for mean, each in zip(means[0], ends, strict=True)]


def _rest(values: Array) -> Array:
    """Of each side the variance of values (sides, seeds, questions) beside the effects of seed and question."""
    _, rows, columns = values.shape
    grand = values.mean((1, 2), keepdims=True)
    rest = values - values.mean(1, keepdims=True) - values.mean(2, keepdims=True) + grand
    found: Array = (rest**2).sum((1, 2)) / ((rows - 1) * (columns - 1))
    return found
