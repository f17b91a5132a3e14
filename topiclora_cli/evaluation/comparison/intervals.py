"""The difference of two sides on the same questions and seeds, with an interval over both.

Every seed answers every question. Questions are drawn anew (bootstrap), each for both sides alike; tasks are what a
study is about and are not drawn. Values drawn from few vary too little, by (n - 1) / n, and are scaled up for it
(Davison and Hinkley 1997, section 3.8). Seeds are too few to be drawn anew: their mean is drawn from Student's t.

What seeds do to single questions is in the draws of both, and may count once. It is taken out of the questions' draws,
as in the analysis of variance of crossed effects, and left in those of seeds, which have few degrees of freedom to know
it by. The other way round seeds that happen to agree count for nothing, which with two or three happens often.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import bootstrap

from topiclora_cli.runs.results.interval import Interval

DRAWS = 4000
LEVEL = 0.95
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_AT_ONCE = 2**18  # values drawn in one batch, few enough for a processor's cache

Array = np.ndarray


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
        yield Drawn(each, _strays(np.random.default_rng([seed, number]), each.mean(0), draws))


def drawn_means(tasks: Sequence[Drawn], weights: Sequence[float] | Array, *, seed: int = 0) -> Array:
    """The weighted mean difference of tasks: first as it is, then in every draw (1 + draws,)."""
    weighted = list(zip(weights, tasks, strict=True))
    draws = len(tasks[0].strays)
    mean = float(sum(weight * task.differences.mean() for weight, task in weighted))
    differences, shares = [task.differences for _, task in weighted], [weight for weight, _ in weighted]
    strays = np.sum([weight * task.strays for weight, task in weighted], axis=0)
    left, scale = parts_of_draws(differences, shares)
    total = mean + strays * left
    if scale:
        total += scale * of_student(len(differences[0]), len(differences), draws, seed)
    return np.concatenate([[mean], total])


def parts_of_draws(differences: Sequence[Array], weights: Sequence[float] | Array) -> tuple[float, float]:
    """How much of the draws of questions is left without what seeds do to single ones, and by how much draws of
    Student's t of seeds lead from the weighted mean of tasks' differences (seeds, questions).

    A single seed says nothing of others: 1 and 0. So it is for seeds whose means are one number, as of few questions
    they happen to be: no draws of seeds say then what would be taken out of those of questions.
    """
    means = np.sum([weight * each.mean(1) for weight, each in zip(weights, differences, strict=True)], axis=0)
    spread = float(means.var(ddof=1) / len(means)) if len(means) > 1 else 0.0
    if spread <= 0:
        return 1.0, 0.0
    rest = whole = 0.0
    for weight, each in zip(weights, differences, strict=True):
        rest += weight**2 * _rest(each) / each.size
        whole += weight**2 * each.mean(0).var(ddof=1) / each.shape[1] if each.shape[1] > 1 else 0.0
    left = math.sqrt(max(0.0, 1 - rest / whole)) if whole > 0 else 1.0
    return left, math.sqrt(spread)


@lru_cache(maxsize=16)
def of_student(seeds: int, tasks: int, draws: int, seed: int) -> Array:
    """Draws of Student's t with a degree of freedom fewer than seeds, the same ones for as many tasks (draws,)."""
    return np.random.default_rng([seed, tasks]).standard_t(seeds - 1, draws)


def interval(means: Array) -> Interval:
    """The interval of what `drawn_means` gives."""
    low, high = np.quantile(means[1:], _ENDS)
    return Interval(float(means[0]), float(low), float(high))


def intervals(means: Array) -> list[Interval]:
    """The interval of every column of means, then draws (1 + draws, sides)."""
    ends = np.quantile(means[1:], _ENDS, axis=0)
    return [Interval(*map(float, each)) for each in np.concatenate([means[:1], ends]).T]


def _strays(random: np.random.Generator, values: Array, draws: int) -> Array:
    """Deviations of the mean of values drawn anew from the mean of all."""
    count = len(values)
    centred = values - values.mean()
    if count == 1 or not centred.any():
        return np.zeros(draws)
    batch = max(1, _AT_ONCE // count)
    options = {"n_resamples": draws, "batch": batch, "vectorized": True, "method": "percentile", "random_state": random}
    found = bootstrap((centred,), np.mean, **options)
    return np.asarray(found.bootstrap_distribution) * math.sqrt(count / (count - 1))


def _rest(values: Array) -> float:
    """Variance of values (seeds, questions) beside the effects of seed and question."""
    rows, columns = values.shape
    if min(rows, columns) < 2:
        return 0.0
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((rest**2).sum() / ((rows - 1) * (columns - 1)))
