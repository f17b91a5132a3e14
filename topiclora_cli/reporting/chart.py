"""Curves in the terminal: each a line of blocks, scaled from its own smallest to its own largest value."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.metrics import LoggedStep

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 48  # characters of one curve
_BESIDE = 58  # columns of a name and four values
# What a training run is judged by, in this order; a run logs some of them.
SHOWN = (
    "loss",
    "loss_lm",
    "loss_kl",
    "eval_loss",
    "eval_kl",
    "kl_weight",
    "prior_forcing",
    "routing_entropy",
    "effective_experts",
    "largest_load",
    "dead_experts",
    "grad_norm",
    "grad_norm_experts",
    "grad_norm_router",
    "tokens_per_second",
    "memory_gib",
)


def sparkline(values: Sequence[float], *, width: int = WIDTH) -> str:
    """A curve of at most `width` characters, each the mean of its part of the values; what is no number is a gap."""
    cells = [_mean(part) for part in _parts(values, width)]
    finite = [value for value in cells if math.isfinite(value)]
    if not finite:
        return " " * len(cells)
    low, span = min(finite), max(finite) - min(finite)
    return "".join(_block((value - low) / span if span else 0.0) for value in cells)


def curves_table(rows: Sequence[LoggedStep], *, columns_of_screen: int = 2 * WIDTH) -> Table:
    """The curves of a run's metrics with their first, smallest, largest and last values.

    A curve takes what a screen of so many columns leaves beside names and values, up to WIDTH.
    """
    extra = sorted({name for each in rows for name in each.values if name.startswith("loss_")} - set(SHOWN))
    logged = {name: [each.values[name] for each in rows if name in each.values] for name in (*SHOWN, *extra)}
    courses = {name.replace("_", " "): values for name, values in logged.items() if values}
    return courses_table(courses, title="Training", width=max(8, min(WIDTH, columns_of_screen - _BESIDE)))


def courses_table(courses: Mapping[str, Sequence[float]], *, title: str = "", width: int = WIDTH) -> Table:
    """Courses of values by name, none of them empty, each curve in `width` characters."""
    rows = [
        row(
            name,
            sparkline(values, width=width),
            *(f"{fact:.4g}" for fact in (values[0], min(values), max(values), values[-1])),
        )
        for name, values in courses.items()
    ]
    return Table(title, columns("", "course", "first", "min", "max", "last", right=2), rows)


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value's mean with those around it, a twentieth of all to either side; of few values, as they are."""
    reach = len(values) // 20
    return [_mean(values[max(0, at - reach) : at + reach + 1]) for at in range(len(values))]


def _parts(values: Sequence[float], count: int) -> list[Sequence[float]]:
    count = min(count, len(values))
    edges = [index * len(values) // count for index in range(count + 1)] if count else [0]
    return [values[start:end] for start, end in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _block(height: float) -> str:
    return BLOCKS[round(height * (len(BLOCKS) - 1))] if math.isfinite(height) else " "
