"""Comparisons as tables for people, and as plain values for programs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from topiclora_cli.evaluation.comparison.compare import Compared
from topiclora_cli.reporting.formats import measure, metric_label
from topiclora_cli.reporting.table import Table, columns, row

_HEADINGS = ("metric", "n", "baseline", "score", "difference", "95 % interval", "p", "p (Holm)")


def comparison_table(compared: Compared) -> Table:
    """One side beside the baseline."""
    rows = [row(*cells, strong=not each.test) for each, cells in zip(compared.rows, _cells(compared), strict=True)]
    return Table(
        f"{compared.side} minus {compared.baseline}",
        columns("task", *_HEADINGS, right=2),
        rows,
        " ".join(compared.notes),
    )


def all_rows(comparisons: Sequence[Compared]) -> Table:
    """Every side's rows in one table, the side and the baseline first."""
    rows = [row(each.side, each.baseline, *cells) for each in comparisons for cells in _cells(each)]
    return Table("Comparison", columns("run", "against", "task", *_HEADINGS, right=4), rows)


def as_values(comparisons: Sequence[Compared]) -> Sequence[Mapping[str, Any]]:
    """Plain values for JSON, with None for what there is not."""
    values = [asdict(each) for each in comparisons]
    for each in values:
        for line in each["rows"]:
            line.update({key: None for key in ("p", "p_holm") if math.isnan(line[key])})
    return values


def _cells(compared: Compared) -> list[list[str]]:
    found = []
    for each in compared.rows:
        unit, name = each.unit, each.metric if each.filter == "none" else f"{each.metric} ({each.filter})"
        label = metric_label(name, {"unit": unit, "higher_is_better": each.higher_is_better})
        ends = ", ".join(measure(end, unit, signed=True) for end in (each.difference.low, each.difference.high))
        scores = [measure(value, unit) for value in (each.baseline, each.score)]
        difference = measure(each.difference.mean, unit, signed=True)
        tests = ["-" if math.isnan(p) else f"{p:.4f}" for p in (each.p, each.p_holm)]
        found.append([each.task, label, str(each.count), *scores, difference, f"[{ends}]", *tests])
    return found
