"""The report of a grid, of all that is finished so far, whoever finished it."""

from collections.abc import Mapping, Sequence

from filelock import FileLock

from topiclora_cli.ablation.folders import LOCKS
from topiclora_cli.ablation.scores import score_cells
from topiclora_cli.ablation.states import CellState, states_of
from topiclora_cli.ablation.whole import whole_grid
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError, joined
from topiclora_cli.recipe import Recipe
from topiclora_cli.reporting.ablation import write_report
from topiclora_cli.reporting.grids.compose import Extent, grid_report
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.results.ablation import CellScore
from topiclora_cli.runs.results.cells import CellLine
from topiclora_cli.runs.run import RECIPE, RunDir


class Reports:
    """Writes the report of a grid, time and again, of which a call works on `mine`.

    recipe: the one that the call's cells are made of. run: whose recipe has what the call leaves out; None where the
    call's cells are all there is to report.
    """

    def __init__(self, mine: Work, recipe: Recipe, run: RunDir | None = None) -> None:
        self.mine, self.recipe, self.run = mine, recipe, run
        self._whole = Work(mine.asked, mine.folder, mine.outcomes)
        self._known = b""

    def write(self) -> list[CellScore]:
        """Write the report and hand back the grid's cells; nothing is written before the first of them is scored."""
        with FileLock(make_folder(self.mine.folder / LOCKS) / "report.lock"):
            work = self._look()
            states, damaged = states_of(work), leave_out_damaged(work)
            scores = score_cells(work, self.recipe.ablation.reference)
            if scores.cells:
                recipes = list({cell.name: cell.recipe for cell in work.grid}.values())
                lines = cell_lines(states, damaged)
                write_report(work.folder, scores, grid_report(scores, extent(work), self.recipe, recipes, lines))
        return list(scores.cells)

    def _look(self) -> Work:
        """The grid as it is now: another call may have added to the run's recipe."""
        known = (self.run.path / RECIPE).read_bytes() if self.run is not None else b""
        if self.run is not None and known != self._known:
            self._known = known
            self._whole = Work(whole_grid(self.mine.asked, self.run), self.mine.folder, self.mine.outcomes)
        else:
            self._whole.look_again()
        return self._whole


def extent(work: Work) -> Extent:
    """How much of the grid is scored; the ways to tune a cell are no runs of their own."""
    scored = sum(work.is_chosen(cell) and work.result(cell) is not None for cell in work.grid)
    runs = len({(cell.name, cell.seed) for cell in work.asked})
    return Extent(cells=len({cell.name for cell in work.asked}), runs=runs, scored=scored)


def leave_out_damaged(work: Work) -> dict[str, str]:
    """Take the cells that cannot be read, or are there with other settings, out of the grid; why, by their folders."""
    damaged = {}
    for cell in work.grid:
        try:
            if work.is_chosen(cell):
                work.result(cell)
        except TopicLoraError as error:
            damaged[cell.folder] = str(error)
    work.grid = [cell for cell in work.grid if cell.folder not in damaged]
    return damaged


def cell_lines(states: Sequence[CellState], damaged: Mapping[str, str]) -> list[CellLine]:
    """As they are reported; damaged: why some cannot be read, by their folders."""
    return [
        CellLine(
            state.name,
            state.seed,
            state.folder,
            "failed" if state.folder in damaged else state.state,
            reason=damaged.get(state.folder) or joined(state.reason, state.hint),
            seconds=state.seconds,
            stage=state.stage or "",
            attempt=state.attempt,
            tuned=state.tuned,
        )
        for state in states
    ]
