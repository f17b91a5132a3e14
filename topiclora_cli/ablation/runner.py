"""Before and after a grid's cells: what is checked before any is trained, and what is written after each."""

from collections.abc import Sequence

from filelock import FileLock

from topiclora_cli.ablation.folders import LOCKS, open_cell
from topiclora_cli.ablation.grid import Cell, make_grid
from topiclora_cli.ablation.scores import score_cells
from topiclora_cli.ablation.search import require_optuna
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.reporting.ablation import Extent, write_report
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.ablation import CellScore
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.build_graph import with_chosen_experts
from topiclora_cli.stages.evaluate import try_tasks
from topiclora_cli.training.attach import refuse_contradictions


def prepare_grid(recipe: Recipe, run: RunDir, progress: Progress, *, only: Sequence[str] | None = None) -> list[Cell]:
    """The grid of a run, whose lock is held, checked before anything is trained.

    Raises TopicLoraError for cells that cannot be, cannot be scored, or are there with other settings.
    """
    # One number for all cells: they are to differ in what their overrides say.
    grid = make_grid(with_chosen_experts(recipe, run, progress), only=only)
    require_optuna(grid)
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


def report(work: Work, recipe: Recipe) -> list[CellScore]:
    """Score what is finished and write it down, the recipe's other cells too."""
    with FileLock(make_folder(work.folder / LOCKS) / "report.lock"):
        found = with_others(work, recipe)
        scores = score_cells(found, recipe.ablation.reference)
        if scores:
            recipes = [cell.recipe for cell in found.grid]
            write_report(found.folder, scores, _extent(found), recipes, reference=recipe.ablation.reference)
    return scores


def _extent(work: Work) -> Extent:
    """How much of the grid is scored; the ways to tune a cell are no runs of their own."""
    scored = sum(work.is_chosen(cell) and work.result(cell) is not None for cell in work.grid)
    runs = len({(cell.name, cell.seed) for cell in work.grid})
    return Extent(cells=len({cell.name for cell in work.grid}), runs=runs, scored=scored)


def with_others(work: Work, recipe: Recipe) -> Work:
    """The grid with those of the recipe's cells that it leaves out and that are finished, by another call perhaps.

    Cells that are there with other settings, or that the recipe cannot have, are no part of it.
    """
    mine = {cell.name for cell in work.grid}
    grid: list[Cell] = []
    for name in recipe.ablation.all_cells:
        if name in mine:
            grid += [cell for cell in work.grid if cell.name == name]
            continue
        try:
            other = Work(make_grid(recipe, only=[name]), work.folder)
            if any(other.is_chosen(cell) and other.result(cell) is not None for cell in other.grid):
                grid += other.grid
        except TopicLoraError:
            continue
    return Work(grid, work.folder) if len(grid) > len(work.grid) else work
