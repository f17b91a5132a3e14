"""Comparisons as tables for people, and as plain values for programs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile
from typing import Any

from topiclora_cli.evaluation.comparison.compare import Compared
from topiclora_cli.evaluation.comparison.rows import Row
from topiclora_cli.reporting.formats import measure, metric_label
from topiclora_cli.reporting.table import Column, Table, columns, row

_FIGURES = ("n", "baseline", "score", "diff.", "interval", "p", "p Holm")


def comparison_table(compared: Compared) -> Table:
    """One side beside the baseline; what all tasks share, their metric and a prefix of names, stands in the title."""
    labels = [_metric(each) for each in compared.rows]
    same = len(set(labels)) == 1
    prefix = _common_prefix([each.task for each in compared.rows if not _aggregate(each)])
    title = f"{compared.side} minus {compared.baseline}, 95 % intervals"
    title += f": {labels[0]}" if same else ""
    title += f"; tasks of {prefix}*" if prefix else ""
    rows = []
    for each, label in zip(compared.rows, labels, strict=True):
        task = each.task if _aggregate(each) else each.task.removeprefix(prefix)
        rows.append(row(task, *([] if same else [label]), *_figures(each), strong=_aggregate(each)))
    names = columns("task", *([] if same else ["metric"]))
    return Table(
        title, [*names, *(Column(each, "right", wrap=False) for each in _FIGURES)], rows, " ".join(compared.notes)
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


def _aggregate(line: Row) -> bool:
    """Whether a row is a group's or the mean's, which are tested but not counted as tests."""
    return math.isnan(line.p_holm)


def _common_prefix(names: Sequence[str]) -> str:
    """What several names begin with, up to a `_`; empty where there is nothing, or where it is the whole of one."""
    first, last = min(names), max(names)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    prefix = first[: first.rfind("_", 0, shared) + 1] if first != last else ""
    return "" if prefix in names else prefix


def _metric(line: Row) -> str:
    name = line.metric if line.filter == "none" else f"{line.metric} ({line.filter})"
    return metric_label(name, {"unit": line.unit, "higher_is_better": line.higher_is_better})


def _figures(line: Row) -> list[str]:
    low, high = (measure(end, line.unit) for end in (line.difference.low, line.difference.high))
    scores = [measure(value, line.unit) for value in (line.baseline, line.score)]
    difference = measure(line.difference.mean, line.unit, signed=True)
    tests = ["-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}" for p in (line.p, line.p_holm)]
    return [str(line.count), *scores, difference, f"[{low}, {high}]", *tests]
