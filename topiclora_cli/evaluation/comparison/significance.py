"""How likely a difference as large is where two sides are equally good: exact where it can be, and over many tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, monte_carlo_test, permutation_test

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
    if is_right_or_wrong(one, other):
        won, lost = int((one > other).sum()), int((one < other).sum())
        p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
        return Significance(p, MCNEMAR)
    return of_differences(one - other)


def is_right_or_wrong(*sides: Array) -> bool:
    """Whether every question is answered rightly, 1, or wrongly, 0."""
    return all(bool(((side == 0) | (side == 1)).all()) for side in sides)


def of_differences(differences: Array) -> Significance:
    """Paired permutation test of differences whose sum is to be zero."""
    some = differences[differences != 0]
    if len(some) < 2:  # a single one is as far from nothing either way
        return Significance(1.0, PERMUTATION)
    options = {"vectorized": True, "batch": max(1, _AT_ONCE // len(some))}
    if 2 ** len(some) <= MOST:
        found = permutation_test((some,), np.sum, permutation_type="samples", n_resamples=MOST, **options)
        return Significance(float(found.pvalue), PERMUTATION)
    # permutation_test draws each question's sign by itself, ten times as slowly.
    random = np.random.default_rng(0)
    draws = int(np.clip(_WORK // len(some), LEAST, MOST))

    def flipped(size: tuple[int, ...]) -> Array:
        signed: Array = np.where(random.integers(0, 2, size, dtype=np.int8), some, -some)
        return signed

    found = monte_carlo_test(some, flipped, np.sum, n_resamples=draws, **options)
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
