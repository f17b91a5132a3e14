"""Values that optuna proposes for a searched cell, by what earlier trials came to on held-out examples.

A trial is an ordinary run of the grid at its first seed. Its study stands in `search.journal`, which any number of
processes share; what a trial came to is read from its run, so that one that was killed is gone on with by whoever comes
next. Each proposal has a random seed of its own, by the recipe's and the trial's number: it depends on the trials that
are finished, and not on the process that asks.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from topiclora_cli.ablation.failures import read_failure
from topiclora_cli.ablation.folders import LOCKS, diverged, held_out_loss, open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.study import JOURNAL, distributions, open_storage, open_study, own_values, plain_values
from topiclora_cli.ablation.trials import RECORD, has_ended, read_trials, run_of, without_best
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.search import Searches, Trial, TrialState

if TYPE_CHECKING:
    import optuna

_STATES: Mapping[str, TrialState] = {"RUNNING": "open", "COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed"}


def require_optuna(grid: Sequence[Cell]) -> None:
    """Raises TopicLoraError where the grid is searched and the package is missing."""
    if any(cell.axes for cell in grid) and importlib.util.find_spec("optuna") is None:
        raise TopicLoraError(
            "ablation.search: optuna needs the package optuna, which is not installed.",
            "Install it: pip install 'topiclora[optuna]'",
        )


class Search:
    """The searches of a grid's cells in `folder`."""

    def __init__(self, grid: Sequence[Cell], folder: Path, progress: Progress) -> None:
        self.cells = [cell for cell in grid if cell.axes and cell.seed == grid[0].seed]
        self.folder, self.progress = folder, progress
        self.to_come = sum(cell.trials for cell in self.cells)  # trials that nobody has asked for yet
        self._told: set[str] = set()

    def update(self) -> None:
        """Tell the studies what has become of trials, and write down how far they are."""
        if self.cells and (self.folder / JOURNAL).exists():
            with self._alone():
                self._write(self._look())

    def propose(self) -> Cell | None:
        """Another run to make, of the cell with the fewest trials so far; None where all have been asked for.

        Values that cannot be together are a trial that has failed, too.
        """
        if not self.cells:
            return None
        with self._alone():
            asked, run = self._look(), None
            while run is None:
                cell = min(self.cells, key=lambda each: len(asked[each.search_name]))
                number = len(asked[cell.search_name])
                if number >= cell.trials:
                    break
                run, trial = self._ask(cell, number)
                asked[cell.search_name] += (trial,)
                self.to_come -= 1
            self._write(asked)
        return run

    def _ask(self, cell: Cell, number: int) -> tuple[Cell | None, Trial]:
        from optuna.trial import TrialState as Told

        study = self._study(cell, number)
        asked = study.ask(distributions(cell))
        values = plain_values(cell, asked.params)
        run, why = run_of(cell, values)
        if run is None:
            study.tell(asked.number, state=Told.FAIL)
        return run, Trial(asked.number, values, "failed" if run is None else "open", reason=why)

    def _look(self) -> dict[str, tuple[Trial, ...]]:
        found = {cell.search_name: self._trials(cell) for cell in self.cells}
        self.to_come = sum(max(0, cell.trials - len(found[cell.search_name])) for cell in self.cells)
        return found

    def _trials(self, cell: Cell) -> tuple[Trial, ...]:
        study = self._study(cell)
        before = {trial.number: trial for trial in read_trials(self.folder).trials.get(cell.search_name, ())}
        found = []
        for each in study.get_trials(deepcopy=False):
            if each.state.name == "WAITING":
                continue
            known = before.get(each.number)
            found.append(known if known is not None and known.state != "open" else self._come_to(study, each, cell))
        self._say_best(cell, found)
        return tuple(found)

    def _come_to(self, study: "optuna.Study", trial: "optuna.trial.FrozenTrial", cell: Cell) -> Trial:
        """A trial as its run is now, which the study is told."""
        from optuna.trial import TrialState as Told

        values = plain_values(cell, trial.params)
        now, why = run_of(cell, values)
        if now is None:
            if trial.state == Told.RUNNING:
                study.tell(trial.number, state=Told.FAIL)
            return Trial(trial.number, values, "failed", reason=why)
        run, failure = open_cell(self.folder, now), read_failure(self.folder / now.folder)
        if trial.state != Told.RUNNING or run is None:
            return Trial(trial.number, values, _STATES[trial.state.name], trial.value)
        if diverged(run):
            study.tell(trial.number, state=Told.PRUNED)
            return Trial(trial.number, values, "diverged")
        if run.is_done("train"):
            loss = held_out_loss(run, now)
            study.tell(trial.number, loss)
            return Trial(trial.number, values, "done", loss)
        if failure is not None:
            study.tell(trial.number, state=Told.FAIL)
            return Trial(trial.number, values, "failed", reason=failure.reason)
        return Trial(trial.number, values, "open")

    def _study(self, cell: Cell, number: int = 0) -> "optuna.Study":
        study = open_study(self.folder, cell, seed=cell.recipe.seed * 10_007 + number, storage=self._storage)
        if not study.get_trials(deepcopy=False) and (own := own_values(cell)) is not None:
            study.enqueue_trial(own)
        return study

    @cached_property
    def _storage(self) -> "optuna.storages.BaseStorage":
        return open_storage(self.folder)

    def _alone(self) -> FileLock:
        return FileLock(make_folder(self.folder / LOCKS) / "search.lock")

    def _write(self, trials: dict[str, tuple[Trial, ...]]) -> None:
        before = read_trials(self.folder)
        now = Searches({**before.trials, **trials})
        if now != before:
            write_result(self.folder / RECORD, now)

    def _say_best(self, cell: Cell, trials: Sequence[Trial]) -> None:
        if cell.name in self._told or not has_ended(cell, trials):
            return
        self._told.add(cell.name)
        count = {state: sum(trial.state == state for trial in trials) for state in ("stopped", "diverged", "failed")}
        others = "".join(f", {number} {state}" for state, number in count.items() if number)
        done = [trial for trial in trials if trial.loss is not None]
        if not done:
            self.progress.say(f"{cell.name}: {without_best(trials)}")
            return
        best = min(done, key=lambda trial: trial.loss or 0.0)
        values = ", ".join(f"{key}={value}" for key, value in best.values.items())
        self.progress.say(
            f"Search of {cell.name}: {len(trials)} trials{others}; best {values}, held-out loss {best.loss:.4f}"
        )
