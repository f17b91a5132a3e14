"""The report of a grid, of all that is finished so far, whoever finished it."""

from collections.abc import Sequence

from filelock import FileLock

from topiclora_cli.ablation.folders import LOCKS
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.scores import score_cells
from topiclora_cli.ablation.states import CellState, states_of
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError, joined
from topiclora_cli.recipe import Recipe
from topiclora_cli.reporting.ablation import write_report
from topiclora_cli.reporting.grids.compose import Extent, grid_report
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.results.ablation import CellScore
from topiclora_cli.runs.results.cells import CellLine


def report(work: Work, recipe: Recipe) -> list[CellScore]:
    """Write the grid's report and hand back its cells; nothing is written before the first of them is scored.

    recipe: the one that the grid is made of.
    """
    with FileLock(make_folder(work.folder / LOCKS) / "report.lock"):
        found = with_others(work, recipe)
        scores = score_cells(found, recipe.ablation.reference)
        if scores.cells:
            lines = cell_lines(states_of(found))
            recipes = list({cell.name: cell.recipe for cell in found.grid}.values())
            write_report(found.folder, scores, grid_report(scores, extent(found), recipe, recipes, lines))
    return list(scores.cells)


def extent(work: Work) -> Extent:
    """How much of the grid is scored; the ways to tune a cell are no runs of their own."""
    scored = sum(work.is_chosen(cell) and work.result(cell) is not None for cell in work.grid)
    runs = len({(cell.name, cell.seed) for cell in work.grid})
    return Extent(cells=len({cell.name for cell in work.grid}), runs=runs, scored=scored)


def with_others(work: Work, recipe: Recipe) -> Work:
    """The grid with those of the recipe's cells that it leaves out and that are finished, by another call perhaps.

    Cells that are there with other settings, or that the recipe cannot have, are no part of it.
    """
    mine = {cell.name for cell in work.grid}
    grid = []
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


def cell_lines(states: Sequence[CellState]) -> list[CellLine]:
    """As they are reported."""
    return [
        CellLine(
            state.name,
            state.seed,
            state.folder,
            state.state,
            reason=joined(state.reason, state.hint),
            seconds=state.seconds,
            stage=state.stage or "",
            attempt=state.attempt,
            tuned=state.tuned,
        )
        for state in states
    ]
