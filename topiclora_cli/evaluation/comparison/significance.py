"""How likely a difference as large is where two sides are equally good: exact where it can be, and over many tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, permutation_test

MCNEMAR, PERMUTATION, BOOTSTRAP = "McNemar", "permutation", "bootstrap"
MOST, LEAST = 9999, 999  # sign flips of few and of many questions
_WORK = 10_000_000  # signs flipped in all
_AT_ONCE = 2**20

Array = np.ndarray


@dataclass(frozen=True)
class Significance:
    """A two-sided p-value and the test it is of."""

    p: float
    test: str


def of_questions(one: Array, other: Array) -> Significance:
    """Two sides of one run each by what every question adds: exact McNemar of 0 and 1, else by flipping signs."""
    if np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all():
        won, lost = int((one > other).sum()), int((one < other).sum())
        p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
        return Significance(p, MCNEMAR)
    return of_differences(one - other)


def of_differences(differences: Array) -> Significance:
    """Paired permutation test of differences whose sum is to be zero."""
    some = differences[differences != 0]
    if not len(some):
        return Significance(1.0, PERMUTATION)
    found = permutation_test(
        (some,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=int(np.clip(_WORK // len(some), LEAST, MOST)),
        batch=max(1, _AT_ONCE // len(some)),
        random_state=np.random.default_rng(0),
    )
    return Significance(float(found.pvalue), PERMUTATION)


def of_draws(means: Array) -> Significance:
    """Several seeds, by how many draws of intervals.drawn_means lie on the other side of no difference."""
    draws = means[1:]
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Significance(min(1.0, 2 * (tail + 1) / (len(draws) + 1)), BOOTSTRAP)


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that the chance of any false alarm among them is held (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    count, highest = len(values), 0.0
    adjusted = [0.0] * count
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (count - rank) * values[place]))
        adjusted[int(place)] = highest
    return adjusted
