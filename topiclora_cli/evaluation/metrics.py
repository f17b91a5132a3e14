"""Metrics as lm-eval reports them: value, error, direction and unit, and which of a task's is its headline."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CHOICE_LOSS = "choice_loss"  # ours, beside lm-eval's own
# Of a task's own metrics: normalised accuracy wherever the task lists it, as its paper and the leaderboards do.
_PREFERRED = ("acc_norm", "acc", "exact_match")
_SHARES = re.compile(r"(acc|exact_match)(_\w+)?|pass@\d+")
_UNITS = {
    **dict.fromkeys(("bleu", "chrf", "chrf++", "ter"), "points of 100"),
    "bits_per_byte": "bits per byte",
    CHOICE_LOSS: "nats",
    "word_perplexity": "per word",
    "byte_perplexity": "per byte",
}


@dataclass(frozen=True)
class Metric:
    """One metric of a task or group.

    filter: lm-eval's filter of the answers. stderr: None where lm-eval gives none. higher_is_better: None if unknown.
    scores: what each question adds, in order, which `aggregate` makes the value of; without one the value is their
    mean. parts: of a group, the weight of each task in the value.
    """

    name: str
    filter: str
    value: float
    stderr: float | None = None
    higher_is_better: bool | None = None
    scores: Sequence[Any] = field(default=(), repr=False)
    aggregate: Callable[[Sequence[Any]], float] | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """lm-eval's key, say `exact_match,strict-match`."""
        return f"{self.name},{self.filter}"

    @property
    def unit(self) -> str:
        """`share` from 0 to 1, which people read in percent; another unit; or empty for a plain number."""
        if _SHARES.fullmatch(self.name):
            # Some tasks of others call something from 0 to 100 by the same name.
            return "share" if 0 <= self.value <= 1 else ""
        return _UNITS.get(self.name, "")


def headline(available: Sequence[str], wanted: Sequence[str] = ()) -> str:
    """The metric to go by among those `available` in the task's own order, each as `name,filter`.

    The first of `wanted` that is there (`name`, with the task's first filter, or `name,filter`), else acc_norm, acc or
    exact_match, else the task's first.
    """
    return next((key for choice in (*wanted, *_PREFERRED) for key in available if matches(choice, key)), available[0])


def matches(choice: str, key: str) -> bool:
    """Whether a metric that somebody names is the one that lm-eval calls `name,filter`."""
    return choice in (key, key.partition(",")[0])
