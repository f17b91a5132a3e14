"""Hands the cells of a grid out, records what dies, says how far it is, and reports after every cell."""

import errno
import os
import time
from statistics import fmean

from topiclora_cli.ablation.cell import make_cell
from topiclora_cli.ablation.failures import read_failure, record_failure
from topiclora_cli.ablation.folders import is_taken
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import Ended, Launcher
from topiclora_cli.ablation.launchers.here import Here
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.ablation.order import longest_first
from topiclora_cli.ablation.reports import Reports
from topiclora_cli.ablation.search import Search
from topiclora_cli.ablation.stopping import Stopping
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import joined
from topiclora_cli.runs.progress import Progress

POLL = 5.0  # seconds between looks at what other processes have finished


class Parent:
    """Who hands out the cells, of which `flying` are out since a time, by folder."""

    def __init__(
        self,
        work: Work,
        reports: Reports,
        launcher: Launcher,
        stopping: Stopping,
        progress: Progress,
        options: LaunchOptions,
    ) -> None:
        self.work, self.reports, self.launcher = work, reports, launcher
        self.stopping, self.progress, self.options = stopping, progress, options
        self.flying: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {}
        self.search = Search(work.asked, work.folder, progress)
        failures = {cell.folder: read_failure(work.folder / cell.folder) for cell in work.grid}
        # The attempts that do not count, because somebody asked for another.
        self.forgiven = {name: each.attempt for name, each in failures.items() if each and options.retry_failed}
        self.failed = False
        self.said = ""

    def run(self) -> None:
        """Until nothing is left that can be done; raises Interrupted where it was stopped, OSError for a full disk."""
        while True:
            left = self._left() if self._goes_on() else []
            self._start_what_fits(left)
            if self.flying:
                for ended in self.launcher.wait(POLL):
                    self._take_in(ended)
            elif left:
                self._say_once("Waiting for cells that other processes are at: " + ", ".join(c.folder for c in left))
                time.sleep(POLL)
            else:
                break
        self.stopping.raise_if_stopped()

    def _goes_on(self) -> bool:
        return not self.stopping.stopped and (self.options.keep_going or not self.failed)

    def _left(self) -> list[Cell]:
        """What can be started now, by anybody, in the order to start it."""
        self.search.update()
        self.work.look_again()
        cells = [cell for cell in self.work.left() if cell.folder not in self.flying and not self._given_up(cell)]
        if isinstance(self.launcher, Here):
            return cells
        seconds = {name: fmean(each) for name, each in self.seconds.items()}
        return longest_first(cells, seconds, self.work.grid[0].seed)

    def _given_up(self, cell: Cell) -> bool:
        failure = read_failure(self.work.folder / cell.folder)
        return failure is not None and failure.attempt > self.forgiven.get(cell.folder, 0)

    def _start_what_fits(self, left: list[Cell]) -> None:
        for cell in left:
            if not self.launcher.free() or self.stopping.stopped:
                return
            if is_taken(self.work.folder, cell.folder):
                continue
            self._start(cell)
        while self.launcher.free() and self._goes_on() and (trial := self.search.propose()) is not None:
            if trial.folder not in self.flying:  # the same values may come twice
                self._start(trial)

    def _start(self, cell: Cell) -> None:
        names = [each.folder for each in self.work.grid]
        number = f"{names.index(cell.folder) + 1}/{len(names)}: " if cell.folder in names else ""
        self.progress.say(f"Ablation cell {number}{cell.folder}")
        self.flying[cell.folder] = time.monotonic()
        self.launcher.start(cell)

    def _take_in(self, ended: Ended) -> None:
        cell = ended.cell
        passed = time.monotonic() - self.flying.pop(cell.folder)
        # A worker's first cell waits for what it loads.
        seconds = passed if ended.seconds is None else ended.seconds
        if ended.how == "full":  # as it is for all that is left
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if ended.how == "died":  # perhaps before there was a run
            record_failure(make_cell(self.work.folder, cell), cell, ended.reason, ended.hint)
        if ended.how in ("failed", "died"):
            self.failed = True
            self.progress.say(f"Failed: {cell.folder}: {joined(ended.reason, ended.hint)}")
        elif ended.how == "done":
            self.seconds.setdefault(cell.name, []).append(seconds)
            self.reports.write()
            self.said = ""
            if not isinstance(self.launcher, Here):
                self.progress.say(f"Finished: {cell.folder} in {seconds:.0f} s{self._ahead()}")

    def _ahead(self) -> str:
        """How much is left, and for how long, as far as the cells that are finished tell."""
        runs = len(self._left()) + len(self.flying) + self.search.to_come
        if not runs:
            return ""
        pace = fmean([each for times in self.seconds.values() for each in times])
        minutes = pace * runs / max(1, len(self.flying) + self.launcher.free()) / 60
        return f"; {runs} left, about {minutes:.0f} min"

    def _say_once(self, text: str) -> None:
        if text != self.said:
            self.progress.say(text)
            self.said = text
