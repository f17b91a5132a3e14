"""Numbers as people read them."""

from collections.abc import Mapping
from typing import Any

from topiclora_cli.runs.results.graph import Contender, Spread


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


def measure(value: float | None, unit: str, *, signed: bool = False) -> str:
    """A metric in its unit: a `share` in percent with one decimal, anything else with three; or a dash."""
    if value is None:
        return "-"
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if unit == "share" else f"{value:{sign},.3f}"


def measured(row: Mapping[str, Any], which: str) -> str:
    """`base`, `tuned` or `delta` of a row of results, with its standard error where it has one."""
    value, stderr = row[which], row[f"{which}_stderr"]
    text = measure(value, row["unit"], signed=which == "delta")
    return text if value is None or stderr is None else f"{text} ± {measure(stderr, row['unit'])}"


def metric_label(name: str, row: Mapping[str, Any]) -> str:
    """What a row of results measures: the metric, its unit where that needs saying, and which way is better."""
    unit = {"share": ", %", "points of 100": ", of 100"}.get(row["unit"], "")
    return f"{name}{unit}{_ARROWS[row['higher_is_better']]}"


def metric_name(row: Mapping[str, Any]) -> str:
    """A task's metric, with lm-eval's filter where there is one."""
    return row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"


def mean_label(result: Mapping[str, Any]) -> str:
    """What the mean is taken over: one metric, or several of one kind."""
    names = {row["metric"] for row in result["tasks"] if row["task"] in result["mean"]["of"]}
    return names.pop() if len(names) == 1 else "shares" if result["mean"]["unit"] == "share" else "metrics"


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
