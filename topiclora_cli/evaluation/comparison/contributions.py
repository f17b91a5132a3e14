"""What each question adds to a score, so that a score is a mean over questions whatever the metric.

Perplexities are no means; their questions' parts are those of the tangent at the score, whose mean is the score
itself (linearisation, Deville 1999).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray

# lm-eval's metrics of log-likelihoods and how many words or bytes they are of.
_WEIGHTED = ("word_perplexity", "byte_perplexity", "bits_per_byte")
NO_MEANS = ("bleu", "chrf", "ter", "f1", "mcc", "brier_score")


def is_comparable(metric: str, value: Any) -> bool:
    """Whether what a question adds to a metric of lm-eval's can be told apart; of F1 or BLEU it cannot."""
    name = metric.partition(",")[0]
    if name in _WEIGHTED:
        return isinstance(value, list | tuple) and len(value) == 2
    return name not in NO_MEANS and isinstance(value, bool | int | float)


def contributions(metric: str, values: Sequence[Any]) -> tuple[Array, Array]:
    """What each question adds to the score (questions,), whose mean is the score; and its raw part, to test by."""
    name = metric.partition(",")[0]
    if name not in (*_WEIGHTED, "perplexity"):
        raw = np.array(values, dtype=float)
        return raw, raw
    pairs = np.array(values if name in _WEIGHTED else [(value, 1.0) for value in values], dtype=float)
    likelihoods, sizes = pairs.T
    rate = likelihoods.sum() / sizes.sum()
    score, slope = (
        (-rate / math.log(2), -1 / math.log(2)) if name == "bits_per_byte" else (np.exp(-rate), -np.exp(-rate))
    )
    return score + slope * (likelihoods - rate * sizes) / sizes.mean(), likelihoods
