"""A difference as it is told everywhere."""

from dataclasses import dataclass

FEWEST = 10  # questions of a part, such as a topic, that has an interval: over fewer a bootstrap is too sure of itself


@dataclass(frozen=True)
class Interval:
    """A mean difference and the ends of its 95 % percentile interval."""

    mean: float
    low: float
    high: float
