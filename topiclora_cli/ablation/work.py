"""What is left of a grid, as the disk has it: several processes take its cells in turn, each cell by one of them."""

from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.ablation.finished import CellResult, read_cell
from topiclora_cli.ablation.folders import diverged, held_out_loss, open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.trials import Expansion
from topiclora_cli.ablation.tuning import Choice, choose


class Work:
    """A grid's cells in `folder`, and which of them are done; what is finished once is not looked at again."""

    def __init__(self, grid: Sequence[Cell], folder: Path) -> None:
        self.asked = grid
        self._expansion = Expansion(grid, folder)
        self.grid = self._expansion.cells()
        self.folder = folder
        self._losses: dict[str, float] = {}
        self._results: dict[str, CellResult] = {}
        self._choices: dict[str, Choice] = {}

    def look_again(self) -> None:
        """Take in the trials that were asked for, or have ended, since."""
        self.grid = self._expansion.cells()

    def left(self) -> list[Cell]:
        """Cells that can be worked on now, by anybody, in order: values to try, then, once they are chosen, seeds."""
        return [cell for cell in self.grid if (self._is_trial(cell) and not self._tried(cell)) or self._to_score(cell)]

    def is_chosen(self, cell: Cell) -> bool:
        """Whether the cell is to be scored, because its values are those that its name goes on with."""
        choice = self.choice(cell.name) if cell.tuned else None
        return not (cell.tuned or cell.axes) or (choice is not None and choice.values == cell.tuned)

    def choice(self, name: str) -> Choice | None:
        """The values chosen for the cells of a name; None where nothing is tuned, not all is tried, or all diverged."""
        if name not in self._choices:
            trials = [cell for cell in self.grid if cell.name == name and self._is_trial(cell)]
            searching = any(cell.name == name and cell.axes for cell in self.grid)
            if searching or not trials or not all(self._tried(trial) for trial in trials):
                return None
            losses = [self._losses[trial.folder] for trial in trials]
            if min(losses) == float("inf"):
                return None
            self._choices[name] = choose(trials, losses)
        return self._choices[name]

    def result(self, cell: Cell) -> CellResult | None:
        """The scores of a finished cell; None where it is not finished, or could not be scored in full."""
        if cell.folder not in self._results:
            found = read_cell(self.folder, cell)
            if found is None or not found.comparable:
                return None
            self._results[cell.folder] = found
        return self._results[cell.folder]

    def _is_trial(self, cell: Cell) -> bool:
        return bool(cell.tuned) and cell.seed == self.grid[0].seed

    def _tried(self, cell: Cell) -> bool:
        if cell.folder not in self._losses:
            run = open_cell(self.folder, cell)
            if run is None or not (run.is_done("train") or diverged(run)):
                return False
            self._losses[cell.folder] = held_out_loss(run, cell)
        return True

    def _to_score(self, cell: Cell) -> bool:
        return self.is_chosen(cell) and self.result(cell) is None
