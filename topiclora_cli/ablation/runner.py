"""Runs a grid cell by cell, each in a run directory of its own, and never one that is finished.

Any number of processes may run one grid: each takes the next cell that nobody is at, and waits for what others still
have to find out. The report is written anew after every cell, from all that is finished.
"""

import time
from collections.abc import Sequence

from topiclora_cli.ablation.cell import score_cell, train_cell
from topiclora_cli.ablation.finished import open_cell
from topiclora_cli.ablation.grid import Cell, make_grid
from topiclora_cli.ablation.reports import report
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.ablation import CellScore
from topiclora_cli.runs.results.record import GridFacts
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.build_graph import with_chosen_experts
from topiclora_cli.stages.evaluate import try_tasks
from topiclora_cli.stages.stage import stage
from topiclora_cli.training.attach import refuse_contradictions

POLL = 5.0  # seconds between looks at what other processes have finished


def prepare_grid(recipe: Recipe, run: RunDir, progress: Progress, *, only: Sequence[str] | None = None) -> list[Cell]:
    """The grid of a run, whose lock is held, checked before anything is trained.

    Raises TopicLoraError for cells that cannot be, cannot be scored, or are there with other settings.
    """
    # One number for all cells: they are to differ in what their overrides say.
    grid = make_grid(with_chosen_experts(recipe, run, progress), only=only)
    for cell in grid:
        try:
            refuse_contradictions(cell.recipe.adapter)
        except TopicLoraError as error:
            raise TopicLoraError(f"ablation.cells.{cell.name}: {error.message}", error.hint) from None
    folder = run.path / "ablation"
    # A task that cannot be scored is to be known before a cell is trained.
    new = [cell.recipe for cell in grid if open_cell(folder, cell) is None]
    for each in {repr(each.eval): each for each in new}.values():
        try_tasks(each)
    return grid


def run_grid(grid: Sequence[Cell], recipe: Recipe, run: RunDir, progress: Progress) -> list[CellScore]:
    """Train and evaluate what is missing, then score all; writes `ablation/report.md` and `ablation/results.json`.

    recipe: the one that the grid was prepared of, whose other cells are scored, too, where they are finished.
    """
    work = Work(grid, run.path / "ablation")
    recipe_of_all = with_chosen_experts(recipe, run, progress)
    told = False
    with stage(run, "ablation", recipe) as running:
        while cells := work.left():
            with work.taken(cells) as cell:
                if cell is not None:
                    _run_cell(work, cell, progress)
            if cell is not None:
                report(work, recipe_of_all)
                told = False
                continue
            if not told:
                names = ", ".join(each.folder for each in cells)
                progress.say(f"Waiting for cells that other processes are at: {names}")
                told = True
            time.sleep(POLL)
        scores = report(work, recipe_of_all)
        running.result = GridFacts(cells=len(scores), seeds=len(recipe.ablation.seeds))
    return scores


def _run_cell(work: Work, cell: Cell, progress: Progress) -> None:
    number = [each.folder for each in work.grid].index(cell.folder) + 1
    progress.say(f"Ablation cell {number}/{len(work.grid)}: {cell.folder}")
    trained = train_cell(work.folder, cell, work.grid, progress)
    if work.is_chosen(cell):
        if (why := trained.manifest.diverged) is not None:
            raise TopicLoraError(
                f"{trained.path}: {why}", "Delete that folder to try again, or lower its learning rate."
            )
        score_cell(work.folder, cell, progress)
