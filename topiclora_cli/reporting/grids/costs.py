"""What cells cost beside what they score, and which no other beats at both."""

from collections.abc import Mapping

from topiclora_cli.reporting.formats import duration, metric_label
from topiclora_cli.reporting.grids.words import compared, spread
from topiclora_cli.reporting.sections import Part, Plot, Section, Spot, Text
from topiclora_cli.reporting.table import Cell, Table, columns, row
from topiclora_cli.runs.results.ablation import GridScores

# Each figure of a Cost by what it is called.
NAMES: Mapping[str, str] = {
    "parameters": "trainable parameters",
    "activated": "activated per token",
    "train_seconds": "training",
    "eval_seconds": "scoring",
    "resident_gib": "peak memory, GiB",
    "accelerator_gib": "peak on the accelerator, GiB",
}
_AXES = {"train_seconds": "seconds of training", "eval_seconds": "seconds of scoring"}
_ABOUT = (
    "Strong: on the Pareto front, no other cell having as good a score for as little, and either a better one or for "
    "less. Means over seeds; parameters are those that are trained. Times are of the machine as busy as it was, and "
    "scores that were kept from before cost none."
)


def costs(found: GridScores) -> Section | None:
    """The score and each cost of every cell, with a plot of each cost that cells differ in."""
    cells = compared(found.cells)
    known = [name for name in NAMES if any(getattr(s.cost, name) is not None for s in cells)]
    if not known or len(cells) < 2:
        return None
    rows = [
        [
            *row(s.name, spread(s.mean, s.deviation, s.unit)),
            *(Cell(shown(name, getattr(s.cost, name)), strong=name in s.fronts) for name in known),
        ]
        for s in cells
    ]
    label = metric_label(cells[0].metric, cells[0])
    parts: list[Part] = [
        Text(_ABOUT),
        Table("", columns("cell", label, *(NAMES[name] for name in known), right=1), rows),
    ]
    for name in known:
        spots = [
            Spot(s.name, float(value), s.mean, _whiskers(s.mean, s.deviation), strong=name in s.fronts)
            for s in cells
            if (value := getattr(s.cost, name)) is not None
        ]
        if len({spot.x for spot in spots}) > 1:
            axis = _AXES.get(name, NAMES[name])
            title = f"{label} over {axis}; named: the Pareto front; whiskers: the deviation over seeds"
            parts.append(Plot(title, axis, cells[0].unit, {"cells": spots}, joined=False))
    return Section("Cost beside score", parts)


def shown(name: str, value: float | None) -> str:
    """A figure of a Cost as people read it."""
    if value is None:
        return "-"
    if name.endswith("seconds"):
        return duration(value)
    return f"{value:.2f}" if name.endswith("gib") else f"{value:,.0f}"


def _whiskers(mean: float, deviation: float | None) -> tuple[float, float] | None:
    return (mean - deviation, mean + deviation) if deviation else None
