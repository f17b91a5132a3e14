"""Numbers as people read them."""

from collections.abc import Mapping
from typing import Any


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in signed points, or a dash."""
    return "-" if value is None else f"{100 * value:+.1f}"


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def spread(value: Mapping[str, float] | None, digits: int) -> str:
    """A mean with the range it came from, or a dash."""
    if value is None:
        return "-"
    mean, low, high = (f"{value[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low} to {high})"


def contender(row: Mapping[str, Any]) -> str:
    """What sets one row of the comparison with controls apart."""
    if row["control"] != "none":
        return str(row["control"])
    return "learnt, no GNN" if row["gnn"] == "none" else f"learnt, {row['gnn']}"
