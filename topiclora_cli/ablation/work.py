"""What is left of a grid, as the disk has it: several processes take its cells in turn, each cell by one of them."""

from collections.abc import Sequence
from math import isinf
from pathlib import Path

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.outcomes import Outcomes
from topiclora_cli.ablation.trials import Expansion
from topiclora_cli.ablation.tuning import Choice, choose


class Work:
    """A grid's cells in `folder`, and which of them are done; outcomes: what another grid of the folder has read."""

    def __init__(self, grid: Sequence[Cell], folder: Path, outcomes: Outcomes | None = None) -> None:
        self.asked, self.folder = grid, folder
        self.outcomes = outcomes or Outcomes(folder)
        self._expansion = Expansion(grid, folder)
        self._choices: dict[str, Choice] = {}
        self.look_again()

    def look_again(self) -> None:
        """Take in the trials that were asked for, or have ended, since."""
        self.grid = self._expansion.cells()
        self._searched = {cell.name for cell in self.grid if cell.axes}
        self.trials: dict[str, list[Cell]] = {}  # by name, the runs whose values are chosen among
        for cell in self.grid:
            if self._is_trial(cell):
                self.trials.setdefault(cell.name, []).append(cell)

    def left(self) -> list[Cell]:
        """Cells that can be worked on now, by anybody, in order: values to try, then, once they are chosen, seeds."""
        return [cell for cell in self.grid if self._to_try(cell) or self._to_score(cell)]

    def is_chosen(self, cell: Cell) -> bool:
        """Whether the cell is to be scored, because its values are those that its name goes on with."""
        choice = self.choice(cell.name) if cell.tuned else None
        return not (cell.tuned or cell.axes) or (choice is not None and choice.values == cell.tuned)

    def choice(self, name: str) -> Choice | None:
        """The values chosen for the cells of a name; None where nothing is tuned, not all is tried, or all diverged."""
        if name not in self._choices:
            trials, losses = self.trials.get(name, ()), []
            for trial in trials:
                if (loss := self.outcomes.loss(trial)) is None:
                    return None
                losses.append(loss)
            if name in self._searched or not losses or isinf(min(losses)):
                return None
            self._choices[name] = choose(trials, losses)
        return self._choices[name]

    def why_nothing(self, cell: Cell) -> str:
        """Why a searched cell is not run, its search being over; empty where it is not over."""
        return self._expansion.why_nothing(cell)

    def result(self, cell: Cell) -> CellResult | None:
        """The scores of a finished cell; None where it is not finished, or could not be scored in full."""
        return self.outcomes.result(cell)

    def _is_trial(self, cell: Cell) -> bool:
        return bool(cell.tuned) and cell.seed == self.grid[0].seed

    def _to_try(self, cell: Cell) -> bool:
        return self._is_trial(cell) and self.outcomes.loss(cell) is None

    def _to_score(self, cell: Cell) -> bool:
        return self.is_chosen(cell) and self.result(cell) is None
