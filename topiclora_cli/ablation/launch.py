"""Works a grid off: hands its cells to where they run, records what dies there, and reports after every cell.

Any number of processes may run one grid: each takes the next cell that nobody is at, and waits for what others still
have to find out. Cells know nothing of one another, as tests do not: one that fails leaves the others running.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from topiclora_cli.ablation.failures import read_failure, record_failure
from topiclora_cli.ablation.folders import is_taken, open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import Ended, Launcher
from topiclora_cli.ablation.launchers.here import Here
from topiclora_cli.ablation.launchers.on_ray import OnRay
from topiclora_cli.ablation.runner import report
from topiclora_cli.ablation.search import Search
from topiclora_cli.ablation.stopping import Stopping
from topiclora_cli.ablation.work import Work
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.ablation import CellScore
from topiclora_cli.runs.results.record import GridFacts
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.build_graph import with_chosen_experts
from topiclora_cli.stages.stage import stage

POLL = 5.0  # seconds between looks at what other processes have finished


@dataclass(frozen=True)
class LaunchOptions:
    """How a grid is worked off.

    jobs: cells at once; None: one, or one for each of the `gpus`, which are numbered as this process sees them.
    launcher: `local`, or `ray` on the cluster at `address`, where a cell takes `cpus` and `gpu_share` of a GPU, None
    being a whole one where there are any.
    keep_going: whether the others go on where a cell fails. retry_failed: whether those are tried again that an earlier
    call has seen fail.
    """

    jobs: int | Literal["auto"] | None = None
    gpus: tuple[int, ...] = ()
    launcher: str = "local"
    keep_going: bool = True
    retry_failed: bool = False
    address: str | None = None
    cpus: float = 1
    gpu_share: float | None = None


def launch(
    grid: Sequence[Cell], recipe: Recipe, run: RunDir, progress: Progress, options: LaunchOptions | None = None
) -> list[CellScore]:
    """Train and evaluate what is missing, then score all; writes `ablation/report.md` and `ablation/results.json`.

    recipe: the one that the grid was prepared of, whose other cells are scored, too, where they are finished. What
    failed is on record in its folder, and not in the scores. Raises Interrupted or KeyboardInterrupt after a signal.
    """
    options = options or LaunchOptions()
    work = Work(grid, run.path / "ablation")
    recipe_of_all = with_chosen_experts(recipe, run, progress)
    with stage(run, "ablation", recipe) as running:
        launcher = open_launcher(grid, work.folder, progress, options)
        try:
            with Stopping(launcher, progress) as stopping:
                _Parent(work, recipe_of_all, launcher, progress, options, stopping).run()
        finally:
            launcher.close()
        scores = report(work, recipe_of_all)
        running.result = GridFacts(cells=len(scores), seeds=len(recipe.ablation.seeds))
    return scores


def open_launcher(grid: Sequence[Cell], folder: Path, progress: Progress, options: LaunchOptions) -> Launcher:
    """What the options ask for."""
    if options.launcher == "ray":
        return OnRay(grid, folder, progress, options)
    return Here(grid, folder, progress)


class _Parent:
    """Who hands out the cells, of which `flying` are out."""

    def __init__(
        self,
        work: Work,
        recipe: Recipe,
        launcher: Launcher,
        progress: Progress,
        options: LaunchOptions,
        stopping: Stopping,
    ) -> None:
        self.work, self.recipe, self.launcher = work, recipe, launcher
        self.progress, self.options, self.stopping = progress, options, stopping
        self.flying: set[str] = set()
        self.search = Search(work.asked, work.folder, progress)
        failures = {cell.folder: read_failure(work.folder / cell.folder) for cell in work.grid}
        # The attempts that do not count, because somebody asked for another.
        self.forgiven = {name: each.attempt for name, each in failures.items() if each and options.retry_failed}
        self.failed = False
        self.said = ""

    def run(self) -> None:
        """Until nothing is left that can be done, or somebody stops it."""
        while True:
            busy = self._start_what_fits() if self._goes_on() else []
            if self.flying:
                for ended in self.launcher.wait(POLL):
                    self._take_in(ended)
            elif busy:
                self._say_once(f"Waiting for cells that other processes are at: {', '.join(busy)}")
                time.sleep(POLL)
            else:
                break
        self.stopping.raise_if_stopped()

    def _goes_on(self) -> bool:
        return not self.stopping.stopped and (self.options.keep_going or not self.failed)

    def _start_what_fits(self) -> list[str]:
        """Start as many as there are places for; the cells that are left to others."""
        self.search.update()
        self.work.look_again()
        left = [cell for cell in self.work.left() if cell.folder not in self.flying and not self._given_up(cell)]
        for cell in left:
            if not self.launcher.free():
                break
            if is_taken(self.work.folder, cell.folder):
                continue
            self._start(cell)
        while self.launcher.free() and self._goes_on() and (cell := self.search.propose()) is not None:
            if cell.folder not in self.flying:  # the same values may come twice
                self._start(cell)
        return [cell.folder for cell in left]

    def _start(self, cell: Cell) -> None:
        numbers = [each.folder for each in self.work.grid]
        number = f"{numbers.index(cell.folder) + 1}/{len(numbers)}: " if cell.folder in numbers else ""
        self.progress.say(f"Ablation cell {number}{cell.folder}")
        self.flying.add(cell.folder)
        self.launcher.start(cell)

    def _given_up(self, cell: Cell) -> bool:
        failure = read_failure(self.work.folder / cell.folder)
        return failure is not None and failure.attempt > self.forgiven.get(cell.folder, 0)

    def _take_in(self, ended: Ended) -> None:
        cell = ended.cell
        self.flying.discard(cell.folder)
        if ended.how == "died":
            run = open_cell(self.work.folder, cell)
            if run is not None:
                record_failure(run, cell, ended.reason, ended.hint)
        if ended.how in ("failed", "died"):
            self.failed = True
            self.progress.say(f"Failed: {cell.folder}: {ended.reason} {ended.hint}".rstrip())
        elif ended.how == "done":
            report(self.work, self.recipe)
            self.said = ""

    def _say_once(self, text: str) -> None:
        if text != self.said:
            self.progress.say(text)
            self.said = text
