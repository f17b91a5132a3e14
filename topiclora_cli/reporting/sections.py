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
    """A value with its standard error, None where it has none; or with the ends of an interval of its own."""

    value: float
    stderr: float | None
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Intervals:
    """Scores by name and run, to be drawn with their 95 % intervals; unit as in formats. signed: they are differences,
    with a line at none.
    """

    title: str
    unit: str
    rows: Mapping[str, Mapping[str, Estimate]]
    signed: bool = False


@dataclass(frozen=True)
class Spot:
    """A point of a plot, with the ends of its whiskers where it has any; strong: one to look at."""

    name: str
    x: float
    y: float
    ends: tuple[float, float] | None = None
    strong: bool = False


@dataclass(frozen=True)
class Plot:
    """Scores in `unit` over a number, `across`: spots of each series, joined to a line or, unless `joined`, only those
    that are strong. level: a score to compare with, drawn across.
    """

    title: str
    across: str
    unit: str
    series: Mapping[str, Sequence[Spot]]
    joined: bool = True
    level: float | None = None


@dataclass(frozen=True)
class Picture:
    """A PNG of the run, what it shows in words, and where it lies in the run's folder."""

    path: Path
    alt: str
    relative: str


Part = Text | Code | Table | Curves | Intervals | Plot | Picture


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
