"""What a report says, whatever it is written in: sections of text, tables, curves, pictures and code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.reporting.table import Table

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Text:
    """A paragraph; what stands in `back quotes` is code."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str


@dataclass(frozen=True)
class Curves:
    """One measure by step: (step, value) of every run that logged it, and the steps of alarms."""

    title: str
    lines: Mapping[str, Points]
    alarms: Sequence[float] = ()


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error, None where it has none."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Intervals:
    """Scores by name and run, to be drawn with their 95 % intervals; unit as in formats."""

    title: str
    unit: str
    rows: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Picture:
    """A PNG of the run, what it shows in words, and where it lies in the run's folder."""

    path: Path
    alt: str
    relative: str


Part = Text | Code | Table | Curves | Intervals | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Report:
    """A title, a line below it, the runs that it is about, and its sections."""

    title: str
    lead: str
    runs: Sequence[str]
    sections: Sequence[Section]
