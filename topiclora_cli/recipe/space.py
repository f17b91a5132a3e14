"""The values that a search draws from: what is listed, or a range of numbers such as `1e-4..5e-3:log`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topiclora_cli.errors import nearest

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\.\.({_NUMBER})((?::\w*)*)\s*")
_KINDS = ("int", "log")


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole: whole numbers alone; log: evenly by their logarithms."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def examples(self) -> list[float]:
        """Both ends, and a number between, with a fraction where the range has such."""
        if self.whole:
            return [int(self.low), int(self.high)]
        return [self.low, self.low + 0.37 * (self.high - self.low), self.high]

    def is_end(self, value: float) -> bool:
        """Whether a value is so near to an end, within a fiftieth of the range, that a better one may lie beyond."""
        scale = math.log if self.log else float
        low, high = scale(self.low), scale(self.high)
        return not 0.02 < (scale(value) - low) / (high - low) < 0.98


Axis = Range | Sequence[Any]


def is_range(value: object) -> bool:
    """Whether a value is a range as it is written, sound or not."""
    return isinstance(value, str) and _RANGE.fullmatch(value) is not None


def axis(values: Sequence[Any]) -> Axis:
    """What the values of a key to tune stand for: a single range as it is written, or themselves.

    Raises ValueError for a range without numbers in it, and for one beside other values.
    """
    ranges = [value for value in values if is_range(value)]
    if not ranges:
        return values
    if len(values) > 1:
        raise ValueError(f"{ranges[0]} is a range, which stands alone; list values, or give one range")
    return _parsed(ranges[0])


def combinations(axes: Mapping[str, Axis]) -> float:
    """How many points a space has; infinite where a range of fractions is among its axes."""
    sizes = [_size(each) for each in axes.values()]
    return math.prod(sizes) if sizes else 0


def _size(values: Axis) -> float:
    if not isinstance(values, Range):
        return len(values)
    return values.high - values.low + 1 if values.whole else math.inf


def _parsed(text: str) -> Range:
    match = _RANGE.fullmatch(text)
    assert match is not None
    kinds = [kind for kind in match[3].split(":") if kind]
    for kind in kinds:
        if kind not in _KINDS:
            raise ValueError(f"{text}: a range has no kind {kind!r}. {nearest(kind, _KINDS)}")
    found = Range(float(match[1]), float(match[2]), whole="int" in kinds, log="log" in kinds)
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise ValueError(f"{text}: the first number of a range has to be below the second")
    if found.log and found.low <= 0:
        raise ValueError(f"{text}: a range by logarithms lies above 0")
    if found.whole and not (found.low.is_integer() and found.high.is_integer()):
        raise ValueError(f"{text}: a range of whole numbers ends in whole numbers")
    return found
