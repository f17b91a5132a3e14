"""Changes with their intervals as cells of tables."""

from collections.abc import Mapping

from topiclora_cli.reporting.table import Cell
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.routing import Changes

# What each measure is called, with its unit and direction.
NAMES = {"score": "accuracy, % ↑", "choice_loss": "choice loss, nats ↓", "answer_loss": "answer loss, nats ↓"}
_NOTHING = "-"


def change(interval: Interval | None, *, share: bool = False) -> Cell:
    """A mean change with the ends of its 95 % interval, strong where that leaves out 0; shares in points."""
    if interval is None:
        return Cell(_NOTHING)
    scale, digits = (100, 1) if share else (1, 2)
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    return Cell(f"{mean} ({low} to {high})", strong=clear(interval))


def clear(interval: Interval) -> bool:
    """Whether the interval leaves out 0."""
    return interval.low > 0 or interval.high < 0


def measured_names(found: Mapping[str, object]) -> list[str]:
    """The measures that there are, in their usual order."""
    return [measure for measure in NAMES if measure in found]


def of_changes(changes: Changes | None, measures: list[str]) -> list[Cell]:
    """The change of each measure."""
    if changes is None:
        return [Cell(_NOTHING) for _ in measures]
    return [change(changes.change.get(measure), share=measure == "score") for measure in measures]
