"""What a training found: its data, its parameters and its losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Lengths:
    """Tokens of a source's examples, those that are too long to be used among them; the 95th percentile by rank."""

    median: float
    percentile_95: int
    longest: int


@dataclass
class SourceCount:
    """Of one source, counted as it is read: rows read and filtered out; examples left out, for what reason.

    wanting: of the missing ones, what was missing. surplus: of a kind that has more than its limit, or more than the
    fraction to train on. held_out: kept out to measure on. format: the one that its rows were found to be in, with its
    columns, "" where the recipe says how to read them.
    """

    label: str
    weight: float | None = None
    format: str = ""
    read: int = 0
    filtered: int = 0
    missing: int = 0
    wanting: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    duplicates: int = 0
    contaminated: int = 0
    surplus: int = 0
    held_out: int = 0


@dataclass(kw_only=True)
class SourceReport(SourceCount):
    """What became of one source, of whose examples some are too long and the others used.

    tagged: of those used, with topics. mean_tokens: per example used. repeated: used though their texts are those of
    another example. lengths: None in a record of an earlier version.
    """

    too_long: int
    used: int
    tagged: int
    mean_tokens: float
    repeated: int = 0
    lengths: Lengths | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a finished training run reports: parameters, steps, the losses of its last logged step, and those of its
    best validation where there were any.

    data: of each source, in the recipe's order.
    """

    processes: int
    steps: int
    examples: int
    total_parameters: int
    activated_parameters: int
    final: Mapping[str, int | float]
    best: Mapping[str, int | float] | None = None
    alarms: tuple[str, ...] = ()
    data: tuple[SourceReport, ...] = field(default=(), repr=False)
