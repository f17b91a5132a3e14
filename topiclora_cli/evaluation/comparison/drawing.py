"""Questions drawn anew with replacement, as often for every side that was asked them: the bootstrap of their means."""

import math
from collections.abc import Sequence

import numpy as np

_AT_ONCE = 2**18  # questions drawn in one batch, few enough for a processor's cache

Array = np.ndarray


def strays(tasks: Sequence[Array], randoms: Sequence[np.random.Generator], draws: int) -> Array:
    """How far the sum over tasks of the means of values (questions, columns) strays in each draw (draws, columns).

    randoms: what each task's questions are drawn by, the same ones in fewer draws as in the first of many.
    """
    scaled = np.concatenate([_scaled(each) for each in tasks])
    ends = np.cumsum([0, *map(len, tasks)]).tolist()
    batch = max(1, _AT_ONCE // len(scaled))
    found, times = np.empty((draws, scaled.shape[1])), np.empty((batch, len(scaled)))
    for start in range(0, draws, batch):
        size = min(batch, draws - start)
        for random, low, high in zip(randoms, ends, ends[1:], strict=False):
            times[:size, low:high] = _times(random, high - low, size)
        found[start : start + size] = times[:size] @ scaled
    return found


def _scaled(values: Array) -> Array:
    """What a single time that a question is drawn adds to the stray of the mean."""
    count = len(values)
    if count == 1:
        return np.zeros_like(values)
    scaled: Array = (values - values.mean(0)) * (math.sqrt(count / (count - 1)) / count)
    return scaled


def _times(random: np.random.Generator, count: int, draws: int) -> Array:
    """How often each draw has each question (draws, count)."""
    places = random.integers(0, count, (draws, count)) + count * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * count).reshape(draws, count)
