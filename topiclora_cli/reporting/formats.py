"""Numbers as people read them."""

from collections.abc import Iterable
from typing import Literal, Protocol

from topiclora_cli.runs.results.evaluation import Compared, MeanScores, TaskScores
from topiclora_cli.runs.results.graph import Contender, Spread

Figure = Literal["base", "tuned", "delta"]


class Measured(Protocol):
    """Whatever is measured by one metric: a task, a mean, a cell of a grid, a row of a comparison."""

    @property
    def unit(self) -> str:
        """`share`, another unit, or empty for a plain number."""

    @property
    def higher_is_better(self) -> bool | None:
        """None where that is not known."""


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in signed points, or a dash."""
    return "-" if value is None else f"{100 * value:+.1f}"


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def size(count: int) -> str:
    """Bytes in the largest binary unit that leaves at least one of it."""
    power = min(3, max(0, (count.bit_length() - 1) // 10))
    return f"{count / 2 ** (10 * power):.{power and 1}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"


def measure(value: float | None, unit: str, *, signed: bool = False) -> str:
    """A metric in its unit: a `share` in percent with one decimal, anything else with three; or a dash."""
    if value is None:
        return "-"
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if unit == "share" else f"{value:{sign},.3f}"


def measured(scores: Compared, which: Figure) -> str:
    """The base's score, the tuned model's or their difference, with its standard error where it has one."""
    value, stderr = {
        "base": (scores.base, scores.base_stderr),
        "tuned": (scores.tuned, scores.tuned_stderr),
        "delta": (scores.delta, scores.delta_stderr),
    }[which]
    text = measure(value, scores.unit, signed=which == "delta")
    return text if value is None or stderr is None else f"{text} ± {measure(stderr, scores.unit)}"


def metric_label(name: str, measured_in: Measured) -> str:
    """A metric's name, its unit where that needs saying, and which way is better."""
    unit = {"share": ", %", "points of 100": ", of 100"}.get(measured_in.unit, "")
    return f"{name}{unit}{_ARROWS[measured_in.higher_is_better]}"


def metric_name(task: TaskScores) -> str:
    """A task's metric, with lm-eval's filter where there is one."""
    return task.metric if task.filter == "none" else f"{task.metric} ({task.filter})"


def mean_name(mean: MeanScores, tasks: Iterable[TaskScores]) -> str:
    """What a mean of some of the tasks is taken over: one metric, or several of one kind."""
    names = {task.metric for task in tasks if task.task in mean.of}
    return names.pop() if len(names) == 1 else "shares" if mean.unit == "share" else "metrics"


_ARROWS = {True: " ↑", False: " ↓", None: ""}


def spread(value: Spread | None, digits: int) -> str:
    """A mean with the range it came from, or a dash."""
    if value is None:
        return "-"
    mean, low, high = (f"{each:.{digits}f}" for each in (value.mean, value.low, value.high))
    return mean if low == high else f"{mean} ({low} to {high})"


def contender(row: Contender) -> str:
    """What sets one row of the comparison with controls apart."""
    if row.control != "none":
        return row.control
    return "learnt, no GNN" if row.gnn == "none" else f"learnt, {row.gnn}"
