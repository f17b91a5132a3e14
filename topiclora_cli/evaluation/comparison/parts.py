"""Sides beside one baseline over the questions of a part, such as a topic."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from topiclora_cli.evaluation.comparison.drawing import Array
from topiclora_cli.evaluation.comparison.intervals import DRAWS, intervals
from topiclora_cli.evaluation.comparison.many import many_means
from topiclora_cli.runs.results.interval import FEWEST, Interval

PART_DRAWS = 2000  # of the questions of a part: a grid has thousands of parts


def part_intervals(sides: Sequence[Array]) -> list[Interval | None]:
    """Of each side the mean of its differences of shares (seeds, questions), with an interval that shares can have.

    Every side has the same questions. None of fewer than FEWEST.
    """
    if not sides or sides[0].shape[1] < FEWEST:
        return [None] * len(sides)
    found = mean_intervals(sides, draws=PART_DRAWS)
    return [replace(each, low=max(-1.0, each.low), high=min(1.0, each.high)) for each in found]


def mean_intervals(sides: Sequence[Array], *, draws: int = DRAWS) -> list[Interval]:
    """Of each side the mean of its values (seeds, questions), with its interval; every side has the same questions."""
    (means,) = many_means([[side] for side in sides], [np.ones(1)], draws=draws)
    return intervals(means)
