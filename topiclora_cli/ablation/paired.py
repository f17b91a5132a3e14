"""The difference of two cells on the same questions and seeds, with an interval over both.

Every seed answers every question. Both are drawn anew (bootstrap), each question for both cells alike; tasks are what
a study is about and are not drawn. What the seeds do to single questions is in the draws of questions already, and so
it is taken out of the seeds' means, as in the analysis of variance of crossed effects; else it would count twice.
Values drawn from few vary too little, by (n - 1) / n, and are scaled up for it (Davison and Hinkley 1997, section 3.8).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
LEVEL = 0.95

Array = np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean difference and the ends of its 95 % percentile interval."""

    mean: float
    low: float
    high: float


def paired_interval(differences: Sequence[Array], *, by_task: bool, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of differences (seeds, questions) of each task: over tasks, or with by_task off over all questions.

    With one seed the interval is over questions alone.
    """
    sizes = np.array([each.shape[1] for each in differences], dtype=float)
    weights = np.full(len(sizes), 1 / len(sizes)) if by_task else sizes / sizes.sum()
    weighted = list(zip(weights, differences, strict=True))
    random = np.random.default_rng(seed)
    mean = float(sum(weight * each.mean() for weight, each in weighted))
    total = np.full(draws, mean)
    for weight, each in weighted:
        total += weight * _drawn(random, each.mean(0), draws)
    of_seeds = np.sum([weight * each.mean(1) for weight, each in weighted], axis=0)
    if (count := len(of_seeds)) > 1 and (spread := of_seeds.var(ddof=1) / count) > 0:
        counted = sum(weight**2 * _rest(each) / each.size for weight, each in weighted)
        total += math.sqrt(max(0.0, 1 - counted / spread)) * _drawn(random, of_seeds, draws)
    low, high = np.quantile(total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def _drawn(random: np.random.Generator, values: Array, draws: int) -> Array:
    """Deviations of the mean of values drawn anew from the mean of all."""
    count = len(values)
    if count == 1:
        return np.zeros(draws)
    shares = random.multinomial(count, np.full(count, 1 / count), size=draws) / count
    return np.asarray(shares @ (values - values.mean())) * math.sqrt(count / (count - 1))


def _rest(values: Array) -> float:
    """Variance of values (seeds, questions) beside the effects of seed and question."""
    rows, columns = values.shape
    if min(rows, columns) < 2:
        return 0.0
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((rest**2).sum() / ((rows - 1) * (columns - 1)))
