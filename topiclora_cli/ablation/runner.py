"""Before a grid's cells: what is checked before any is trained."""

from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.ablation.folders import open_cell
from topiclora_cli.ablation.grid import Cell, make_grid
from topiclora_cli.ablation.search import require_optuna
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.progress import Progress
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
    # A task that cannot be scored is to be known before a cell is trained.
    new = [cell.recipe for cell in check_grid(grid, run.path / "ablation")]
    for each in {repr(each.eval): each for each in new}.values():
        try_tasks(each)
    return grid


def check_grid(grid: Sequence[Cell], folder: Path) -> list[Cell]:
    """The cells that are not in the folder yet; raises TopicLoraError for one that cannot be, or is there otherwise."""
    require_optuna(grid)
    for cell in grid:
        try:
            refuse_contradictions(cell.recipe.adapter)
        except TopicLoraError as error:
            raise TopicLoraError(f"ablation.cells.{cell.name}: {error.message}", error.hint) from None
    return [cell for cell in grid if open_cell(folder, cell) is None]
