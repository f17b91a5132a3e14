"""A grid's numbers for programs and for papers: rows of single runs and tasks, rows of cells, and LaTeX."""

from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.reporting.formats import metric_label
from topiclora_cli.reporting.grids.costs import NAMES, shown
from topiclora_cli.reporting.grids.scores import best_of, tasks_table
from topiclora_cli.reporting.grids.words import STARS, compared, ends, p_value, spread, stars, values, won_and_rank
from topiclora_cli.reporting.table import Cell, Column, Table, as_latex, columns, row
from topiclora_cli.runs.files import write_csv, write_text
from topiclora_cli.runs.results.ablation import CellScore, Cost, GridScores

RUNS, CELLS, TOPICS, LATEX = "scores.csv", "cells.csv", "topics.csv", "tables.tex"
_RUN_HEADS = (
    *("cell", "seed", "task", "metric", "filter", "unit", "higher_is_better", "n", "score", "stderr"),
    *("run", "evaluation", "settings", "tuned", *NAMES),
)
_CELL_HEADS = (
    *("cell", "seeds", "metric", "unit", "higher_is_better", "mean", "deviation", "reference", "difference", "low"),
    *("high", "p", "test", "p_holm", "family", "wins", "ties", "losses", "win_rate", "rank", "blocks", *NAMES),
    *("pareto", "tuned", "runs", "not_compared"),
)
_TOPIC_HEADS = ("cell", "topic", "n", "mean", "reference", "seeds", "difference", "low", "high", "sorted_by")
_SHOWN = ("parameters", "train_seconds", "resident_gib", "accelerator_gib")  # of a Cost, in a paper


def write_sheets(folder: Path, found: GridScores) -> None:
    """Write scores.csv, a row for every cell, seed and task; cells.csv, one for every cell; and tables.tex.

    Beside them topics.csv, a row for every cell and topic, where evaluations know topics.
    """
    write_csv(folder / RUNS, _RUN_HEADS, [line for s in found.cells for line in _run_rows(s)])
    write_csv(folder / CELLS, _CELL_HEADS, [_cell_row(s, found.reference) for s in found.cells])
    if topics := [line for s in found.cells for line in _topic_rows(s, found)]:
        write_csv(folder / TOPICS, _TOPIC_HEADS, topics)
    write_text(folder / LATEX, "\n".join(map(as_latex, paper_tables(found))))


def paper_tables(found: GridScores) -> list[Table]:
    """The cells, and the tasks where there are several, as a paper has them; the best strong."""
    tables = [_cells(found)]
    if tasks := tasks_table(found.cells):
        note = " ".join(filter(None, ["Mean and standard deviation over seeds.", tasks.note]))
        tables.append(Table("Scores by task", tasks.columns, tasks.rows, note))
    return tables


def _cells(found: GridScores) -> Table:
    cells = compared(found.cells)
    known = [name for name in _SHOWN if any(getattr(s.cost, name) is not None for s in cells)]
    label = metric_label(cells[0].metric, cells[0]) if cells else "score"
    rows = []
    for s, strong in zip(cells, best_of(cells), strict=True):
        difference = s.against(found.reference)
        rows.append(
            row(
                s.name,
                Cell(f"{spread(s.mean, s.deviation, s.unit)}{stars(difference)}", strong=strong),
                ends(difference, s.unit) if difference else "-",
                p_value(difference.p_holm if difference else None),
                *won_and_rank(s.standing),
                *(Cell(shown(name, getattr(s.cost, name)), strong=name in s.fronts) for name in known),
            )
        )
    heads = [Column("cell"), *(Column(each, "right") for each in (label, f"minus {found.reference}", "p", "wins, %"))]
    heads += columns("rank", *(NAMES[name] for name in known), right=0)
    families = [each.family for s in cells if (each := s.against(found.reference)) and each.p is not None]
    note = "Mean and standard deviation over seeds; differences on the same questions and seeds, with 95 % intervals."
    if families:
        note += f" {STARS} It is over {max(families)} cells."
    note += " Strong costs: the Pareto front."
    others = sum(s.name != found.reference for s in cells)
    return Table(f"{others} cell{'s' if others != 1 else ''} beside {found.reference}", heads, rows, note)


def _run_rows(s: CellScore) -> list[Sequence[object]]:
    return [
        (
            *(s.name, run.seed, task.task, task.metric, task.filter, task.unit, task.higher_is_better, task.count),
            *(task.score, task.stderr, run.folder, run.evaluation, run.settings, values(s.tuned)),
            *_figures(run.cost),
        )
        for run in s.runs
        for task in run.tasks
    ]


def _cell_row(s: CellScore, reference: str) -> Sequence[object]:
    found, stands = s.against(reference), s.standing
    difference = (found.mean, found.low, found.high, found.p, found.test, found.p_holm, found.family) if found else ()
    return (
        *(s.name, s.seeds, s.metric, s.unit, s.higher_is_better, s.mean, s.deviation, reference),
        *(difference or [None] * 7),
        *(stands.wins, stands.ties, stands.losses, stands.win_rate, stands.rank, stands.blocks),
        *_figures(s.cost),
        *(" ".join(s.fronts), values(s.tuned), " ".join(run.folder for run in s.runs), s.odd),
    )


def _topic_rows(s: CellScore, found: GridScores) -> list[Sequence[object]]:
    return [
        (
            *(s.name, each.topic, each.count, each.mean, found.reference, each.seeds),
            *(each.difference, each.low, each.high, found.sorted_by),
        )
        for each in s.topics
    ]


def _figures(cost: Cost) -> list[float | None]:
    return [getattr(cost, name) for name in NAMES]
