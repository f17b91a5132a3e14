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
    rows = [
        row(*cells, strong=math.isnan(each.p_holm)) for each, cells in zip(compared.rows, _cells(compared), strict=True)
    ]
    return Table(
        f"{compared.side} minus {compared.baseline}",
        columns("task", *_HEADINGS, right=2),
        rows,
        " ".join(compared.notes),
    )


def flips_table(compared: Compared) -> Table:
    """Questions that one side alone answered rightly, with the answers of both."""
    sides = (compared.side, compared.baseline)
    rows = [
        row(each.task, each.question, each.right, each.answer, each.baseline, sides[0 if each.won else 1])
        for each in compared.flips
    ]
    return Table(
        f"{len(rows)} of {compared.flipped} questions that {' or '.join(sides)} alone answered rightly",
        columns("task", "question", "right", *sides, "answered rightly by"),
        rows,
    )


def all_rows(comparisons: Sequence[Compared]) -> Table:
    """Every side's rows in one table of plain numbers, as programs read them; what there is not is empty."""
    headings = ("run", "against", "task", "metric", "filter", "n", "baseline", "score")
    rows = [
        row(
            *(each.side, each.baseline, line.task, line.metric, line.filter, line.count, line.baseline, line.score),
            *(line.difference.mean, line.difference.low, line.difference.high, line.p, line.test),
            "" if math.isnan(line.p_holm) else line.p_holm,
        )
        for each in comparisons
        for line in each.rows
    ]
    return Table("Comparison", columns(*headings, "difference", "low", "high", "p", "test", "p_holm", right=5), rows)


def as_values(comparisons: Sequence[Compared]) -> Sequence[Mapping[str, Any]]:
    """Plain values for JSON, with None for what there is not."""
    values = [asdict(each) for each in comparisons]
    for each in values:
        for line in each["rows"]:
            line["p_holm"] = None if math.isnan(line["p_holm"]) else line["p_holm"]
    return values


def _cells(compared: Compared) -> list[list[str]]:
    found = []
    for each in compared.rows:
        unit, name = each.unit, each.metric if each.filter == "none" else f"{each.metric} ({each.filter})"
        label = metric_label(name, {"unit": unit, "higher_is_better": each.higher_is_better})
        ends = ", ".join(measure(end, unit, signed=True) for end in (each.difference.low, each.difference.high))
        scores = [measure(value, unit) for value in (each.baseline, each.score)]
        difference = measure(each.difference.mean, unit, signed=True)
        tests = ["-" if math.isnan(p) else "<0.0001" if p < 0.0001 else f"{p:.4f}" for p in (each.p, each.p_holm)]
        found.append([each.task, label, str(each.count), *scores, difference, f"[{ends}]", *tests])
    return found
