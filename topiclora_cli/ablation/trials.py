"""A searched grid as the disk has it: the runs of the trials that were asked for, in place of what stands for them.

Nothing here needs what proposes them.
"""

from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.ablation.grid import Cell, with_values
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.record import Settings
from topiclora_cli.runs.results.search import Searches, Trial

RECORD = "search.json"
_OF_THE_GRID = ("open", "done", "diverged")  # trials that are runs to make, to choose among, or to tell of


def read_trials(folder: Path) -> Searches:
    """What was tried so far."""
    path = folder / RECORD
    return read_result(path, Searches) if path.exists() else Searches()


def has_ended(cell: Cell, trials: Sequence[Trial]) -> bool:
    """Whether a searched cell has had all of its trials."""
    return sum(trial.state != "open" for trial in trials) >= cell.trials


def run_of(cell: Cell, values: Settings) -> tuple[Cell | None, str]:
    """The run of a searched cell with these values, or why they cannot be together."""
    try:
        return with_values(cell, tuple(values.items())), ""
    except TopicLoraError as error:
        return None, error.message


class Expansion:
    """A grid whose searched cells are replaced, as their trials come, by the runs of these."""

    def __init__(self, grid: Sequence[Cell], folder: Path) -> None:
        self.grid, self.folder = grid, folder
        self._made: dict[str, Cell | None] = {}

    def cells(self) -> list[Cell]:
        """The runs that are known now; what has no best values yet stays among them.

        At later seeds the best values alone are run.
        """
        if not any(cell.axes for cell in self.grid):
            return list(self.grid)
        searches = read_trials(self.folder).trials
        found: dict[str, Cell] = {}
        for cell in self.grid:
            trials = searches.get(cell.search_name, ()) if cell.axes else ()
            best = _best(trials) if has_ended(cell, trials) else []
            shown = [trial for trial in trials if trial.state in _OF_THE_GRID]
            runs = [self._run(cell, trial) for trial in (shown if cell.seed == self.grid[0].seed else best)]
            for each in [*runs, *([] if best else [cell])]:
                if each is not None:
                    found.setdefault(each.folder, each)
        return list(found.values())

    def why_nothing(self, cell: Cell) -> str:
        """Why a searched cell is not run, its search being over; empty where it is not over."""
        trials = read_trials(self.folder).trials.get(cell.search_name, ())
        return without_best(trials) if has_ended(cell, trials) and not _best(trials) else ""

    def _run(self, cell: Cell, trial: Trial) -> Cell | None:
        """None for values that cannot be together, which the search is still to hear of."""
        key = f"{cell.folder} {cell.search_name} {trial.number}"
        if key not in self._made:
            self._made[key], _ = run_of(cell, trial.values)
        return self._made[key]


def without_best(trials: Sequence[Trial]) -> str:
    """What became of trials none of which is done."""
    failed = [trial.reason for trial in trials if trial.state == "failed"]
    why = f"; the last failed: {failed[-1]}" if failed else ""
    return f"not run, because none of its {len(trials)} trials came to an end{why}"


def _best(trials: Sequence[Trial]) -> list[Trial]:
    """The trial with the lowest loss, of equals the first; none where none is done."""
    done = [trial for trial in trials if trial.loss is not None]
    return [min(done, key=lambda trial: trial.loss or 0.0)] if done else []
