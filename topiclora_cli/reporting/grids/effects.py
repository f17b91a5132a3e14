"""Scores along a factor: cells that are called `FACTOR=VALUE`, or `SERIES-FACTOR=VALUE`, by numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from topiclora_cli.recipe import FULL, Recipe
from topiclora_cli.reporting.formats import measure, metric_label
from topiclora_cli.reporting.grids.words import compared, ends, spread
from topiclora_cli.reporting.sections import Part, Plot, Section, Spot, Text
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.ablation import CellScore, GridScores

_NAME = re.compile(r"(?:(?P<series>.+)-)?(?P<factor>[^=]+)=(?P<value>[^=]+)")
_FULL_VALUE = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class _Point:
    series: str
    value: float
    cell: CellScore


def effects(found: GridScores, recipe: Recipe) -> list[Section]:
    """A section for each factor of which two cells or more have a number; recipe: that of the grid."""
    cells = compared(found.cells)
    factors: dict[str, list[_Point]] = {}
    for s in cells:
        if (match := _NAME.fullmatch(s.name)) and (value := number_of(match["value"])) is not None:
            factors.setdefault(match["factor"], []).append(_Point(match["series"] or "", value, s))
    sections = []
    for factor, points in factors.items():
        own = _of_full(points, cells, recipe)
        if shown := _several([*points, *([own] if own else [])]):
            sections.append(_section(factor, shown, found))
    return sections


def number_of(text: str) -> float | None:
    """What a value in a cell's name counts to: 0.05, 2e-4, 1% or, as file names have it, 1_16; None for words."""
    if match := re.fullmatch(r"(\d+)_(\d+)", text):
        return int(match[1]) / int(match[2]) if int(match[2]) else None
    share = text.endswith("%")
    if not _FULL_VALUE.fullmatch(text.removesuffix("%")):
        return None
    return float(text.removesuffix("%")) / (100 if share else 1)


def _several(points: Sequence[_Point]) -> list[_Point]:
    """Those of series with two values or more, in order; keys that move together leave each series one."""
    values: dict[str, set[float]] = {}
    for point in points:
        values.setdefault(point.series, set()).add(point.value)
    kept = [point for point in points if len(values[point.series]) > 1]
    return sorted(kept, key=lambda each: (each.series, each.value))


def _section(factor: str, points: Sequence[_Point], found: GridScores) -> Section:
    label = metric_label(points[0].cell.metric, points[0].cell)
    unit = points[0].cell.unit
    several = len({point.series for point in points}) > 1
    heads = [*(["series"] if several else []), factor, "cell", "seeds", label, f"minus {found.reference}"]
    rows = [
        row(
            *([point.series or "-"] if several else []),
            f"{point.value:g}",
            point.cell.name,
            point.cell.seeds,
            spread(point.cell.mean, point.cell.deviation, unit),
            ends(each, unit) if (each := point.cell.against(found.reference)) else "-",
        )
        for point in points
    ]
    series: dict[str, list[Spot]] = {}
    for point in points:
        mean, deviation = point.cell.mean, point.cell.deviation
        whiskers = (mean - deviation, mean + deviation) if deviation else None
        series.setdefault(point.series or factor, []).append(Spot(point.cell.name, point.value, mean, whiskers))
    reference = next((s for s in compared(found.cells) if s.name == found.reference), None)
    dotted = f"; dotted: {found.reference}" if reference else ""
    drawn = Plot(
        f"{label} over {factor}; whiskers: the deviation over seeds{dotted}",
        factor,
        unit,
        series,
        level=reference.mean if reference else None,
    )
    about = f"What else sets the cells apart, if anything, their recipes say; {found.reference} has "
    about += f"{measure(reference.mean, unit)}." if reference else "no score yet."
    parts: list[Part] = [Text(about), Table("", columns(*heads), rows), drawn]
    return Section(f"Effect of {factor}", parts)


def _of_full(points: Sequence[_Point], cells: Sequence[CellScore], recipe: Recipe) -> _Point | None:
    """The recipe itself, where all cells of a factor change one and the same key, of which it has a number."""
    full = next((s for s in cells if s.name == FULL), None)
    changed = [recipe.ablation.cells.get(point.cell.name, {}) for point in points]
    keys = {key for each in changed for key in each}
    if full is None or len(keys) != 1 or any(len(each) != 1 for each in changed) or any(p.series for p in points):
        return None
    value: Any = recipe.model_dump()
    for part in keys.pop().split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value in {p.value for p in points}:
        return None
    return _Point("", float(value), full)
