"""The cells of a grid by score: all in one table, and by task."""

import math
from collections.abc import Sequence
from statistics import fmean

from topiclora_cli.recipe import FULL
from topiclora_cli.reporting.formats import measure, metric_label, number
from topiclora_cli.reporting.grids.words import best, compared, ends, p_value, spread, stars, values, won_and_rank
from topiclora_cli.reporting.table import Cell, Column, Table, columns, row
from topiclora_cli.runs.results.ablation import CellScore, GridScores, TaskScore


def scores_table(scores: Sequence[CellScore]) -> Table:
    """Every cell with its score, its other measures and what was chosen for it; the best score is strong."""
    others = list(dict.fromkeys(name for s in scores for name in s.measures if name != s.metric))
    tuned = any(s.tuned for s in scores)
    heads = ["cell", "seeds", "score", "deviation", "vs full"]
    heads += [part for name in others for part in (f"{name} ↓", "deviation")]
    heads += ["KL", "MI", "trainable", *(["chosen"] if tuned else [])]
    rows = []
    for s, strong in zip(scores, best_of(scores), strict=True):
        line = row(s.name, s.seeds, Cell(measure(s.mean, s.unit), strong=strong), measure(s.deviation, s.unit))
        line += row(measure(s.against_full, s.unit, signed=True))
        for name in others:
            found = s.measures.get(name)
            line += row(
                *(number(part["tasks"] if part else None) for part in (found and found.mean, found and found.deviation))
            )
        line += row(number(s.kl), number(s.mutual_information), "-" if s.parameters is None else f"{s.parameters:,}")
        rows.append([*line, *(row(values(s.tuned)) if tuned else [])])
    return Table("", columns(*heads, right=None), rows)


def cells_table(found: GridScores) -> Table:
    """Every cell in a line of the terminal: score, difference from the reference, how clear it is, wins and rank."""
    scores = found.cells
    heads = [*columns("cell"), *(Column(each, "right", wrap=False) for each in ("n", "score", "difference", "p Holm"))]
    heads += [Column(each, "right", wrap=False) for each in ("wins %", "rank", "KL", "MI")]
    rows = []
    for s, strong in zip(scores, best_of(scores), strict=True):
        difference = s.against(found.reference)
        rows.append(
            row(
                s.name,
                s.seeds,
                Cell(spread(s.mean, s.deviation, s.unit), strong=strong),
                ends(difference, s.unit) if difference else _paired(s, found.reference),
                f"{p_value(difference.p_holm)}{stars(difference)}" if difference else "-",
                *won_and_rank(s.standing),
                number(s.kl),
                number(s.mutual_information),
            )
        )
    label = metric_label(scores[0].metric, scores[0])
    title = f"Ablation: {label}; difference from {found.reference} with 95 % interval; n: seeds"
    notes = [f"{s.name} is compared with nothing: {s.odd}." for s in scores if s.odd]
    return Table(title, heads, rows, " ".join(notes))


def tasks_table(scores: Sequence[CellScore]) -> Table | None:
    """Scores by task over seeds, the best of each strong; the longer of tasks and cells stand below one another."""
    cells = [s for s in compared(scores) if s.runs]
    names = list(dict.fromkeys(task.task for s in cells for run in s.runs for task in run.tasks))
    if len(names) < 2:
        return None
    prefix = _prefix(names)
    by_cell = [_by_task(s) for s in cells]
    grid = [[by_task.get(name, []) for by_task in by_cell] for name in names]
    marked = []
    for line in grid:
        way = next((each[0].higher_is_better for each in line if each), None)
        means = [fmean(task.score for task in each) if each else None for each in line]
        strong = best(means, higher_is_better=way)
        marked.append([Cell(_over_seeds(each), strong=top) for each, top in zip(line, strong, strict=True)])
    shorts = [name.removeprefix(prefix) for name in names]
    title = f"Tasks are those of {prefix}*." if prefix else ""
    if len(cells) <= len(names):
        heads = columns("task", *(s.name for s in cells), right=1)
        return Table("", heads, [[Cell(name), *line] for name, line in zip(shorts, marked, strict=True)], title)
    heads = columns("cell", *shorts, right=1)
    turned = [[Cell(s.name), *(line[place] for line in marked)] for place, s in enumerate(cells)]
    return Table("", heads, turned, title)


def best_of(scores: Sequence[CellScore]) -> list[bool]:
    """Which cells have the best score of those that are compared."""
    means = [None if s.odd else s.mean for s in scores]
    return best(means, higher_is_better=next((s.higher_is_better for s in scores if not s.odd), None))


def _paired(score: CellScore, reference: str) -> str:
    """The mean gain where no question was kept to make an interval of."""
    known = reference == FULL != score.name and not score.odd
    return measure(score.against_full, score.unit, signed=True) if known else "-"


def _by_task(score: CellScore) -> dict[str, list[TaskScore]]:
    found: dict[str, list[TaskScore]] = {}
    for run in score.runs:
        for task in run.tasks:
            found.setdefault(task.task, []).append(task)
    return found


def _over_seeds(tasks: Sequence[TaskScore]) -> str:
    if not tasks:
        return "-"
    scores = [task.score for task in tasks]
    mean, count = fmean(scores), len(scores)
    # statistics.stdev reckons in fractions, which takes a second for the thousands of a grid.
    deviation = math.dist(scores, [mean] * count) / math.sqrt(count - 1) if count > 1 else None
    return spread(mean, deviation, tasks[0].unit)


def _prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a `_`; empty where that is nothing, or all of a name."""
    first, last = min(names), max(names)
    shared = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), 0)
    prefix = first[: first.rfind("_", 0, shared) + 1]
    return "" if prefix in names else prefix
