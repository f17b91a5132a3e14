"""Comparisons as tables for people, and as JSON for programs."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import takewhile

from topiclora_cli.evaluation.comparison.compare import Compared
from topiclora_cli.evaluation.comparison.rows import Row
from topiclora_cli.reporting.formats import measure, metric_label
from topiclora_cli.reporting.table import Column, Table, columns, row

_FIGURES = ("n", "baseline", "score", "diff.", "interval", "p", "p Holm")


def comparison_table(compared: Compared) -> Table:
    """One side beside the baseline; what all tasks share, their metric and a prefix of names, stands in the title."""
    shared, labels = _metrics(compared.rows)
    prefix = _prefix(compared)
    title = f"{compared.side} minus {compared.baseline}, 95 % intervals"
    title += f": {shared}" if shared else ""
    title += f"; tasks of {prefix}*" if prefix else ""
    rows = []
    for each, label in zip(compared.rows, labels, strict=True):
        task = each.task if _aggregate(each) else each.task.removeprefix(prefix)
        rows.append(row(f"{task} ({label})" if label else task, *_figures(each), strong=_aggregate(each)))
    figures = [Column(each, "right", wrap=False) for each in _FIGURES]
    return Table(title, [Column("task"), *figures], rows, " ".join(compared.notes))


def flips_table(compared: Compared) -> Table:
    """Questions that one side alone answered rightly, with the answers of both."""
    sides = (compared.side, compared.baseline)
    prefix = _prefix(compared)
    rows = [
        row(
            *(each.task.removeprefix(prefix), each.question, each.right),
            *(f"✓ {text}" if won else text for text, won in ((each.answer, each.won), (each.baseline, not each.won))),
        )
        for each in compared.flips
    ]
    title = f"{len(rows)} of {compared.flipped} questions that {' or '.join(sides)} alone answered rightly (✓)"
    return Table(title, columns("task", "question", "right", *sides), rows)


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


def as_json(comparisons: Sequence[Compared]) -> str:
    """All that was compared, with null for what there is not."""
    values = [asdict(each) for each in comparisons]
    for each in values:
        for line in each["rows"]:
            line["p_holm"] = None if math.isnan(line["p_holm"]) else line["p_holm"]
    return json.dumps(values, indent=2, ensure_ascii=False)


def _aggregate(line: Row) -> bool:
    """Whether a row is a group's or the mean's, which are tested but not counted as tests."""
    return math.isnan(line.p_holm)


def _prefix(compared: Compared) -> str:
    """What the names of several tasks begin with, up to a `_`; empty where there is nothing, or all of a name."""
    names = [each.task for each in compared.rows if not _aggregate(each)]
    first, last = min(names), max(names)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    prefix = first[: first.rfind("_", 0, shared) + 1] if first != last else ""
    return "" if prefix in names else prefix


def _metrics(rows: Sequence[Row]) -> tuple[str, list[str]]:
    """What can be said once of the metrics of all rows, and what is then left to say of each; either may be empty."""
    names = [each.metric if each.filter == "none" else f"{each.metric} ({each.filter})" for each in rows]
    labels = [metric_label(name, each) for name, each in zip(names, rows, strict=True)]
    if len(set(labels)) == 1:
        return labels[0], [""] * len(rows)
    if {(each.unit, each.higher_is_better) for each in rows} == {("share", rows[0].higher_is_better)}:
        return metric_label("shares", rows[0]), ["" if name == "shares" else name for name in names]
    return "", labels


def _figures(line: Row) -> list[str]:
    low, high = (measure(end, line.unit) for end in (line.difference.low, line.difference.high))
    scores = [measure(value, line.unit) for value in (line.baseline, line.score)]
    difference = measure(line.difference.mean, line.unit, signed=True)
    tests = ["-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}" for p in (line.p, line.p_holm)]
    return [str(line.count), *scores, difference, f"[{low}, {high}]", *tests]
