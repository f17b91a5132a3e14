"""A difference as it is told everywhere."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean difference and the ends of its 95 % percentile interval."""

    mean: float
    low: float
    high: float
