"""Worker processes beside this one, each of which attempts one cell after another.

A worker ends with a cell that failed, so that nothing of it stays, memory least of all, and another takes its place.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import Ended
from topiclora_cli.ablation.launchers.places import worker_environment
from topiclora_cli.runs.files import make_folder

LOGS = "logs"
WORKER = "topiclora_cli.ablation.worker"
_PATIENCE = 30.0  # seconds for workers that are to leave
_GLANCE = 1.0  # seconds between looks at whether processes live


class _Worker:
    """A process, what it is told through, and the cell that it is at, if any."""

    def __init__(self, process: "subprocess.Popen[bytes]", connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.cell: Cell | None = None

    def end(self, number: int) -> None:
        """Send a signal; to its children, too, where it leaves no choice."""
        with suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            elif self.process.poll() is None:
                self.process.send_signal(number)

    def leave(self, seconds: float) -> None:
        """Have it end, at the latest after so many seconds."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.end(signal.SIGKILL)
        self.process.wait()


class Local:
    """The launcher of `jobs` workers; `gpus`: the numbers of those that they share, in turn."""

    def __init__(self, grid: Sequence[Cell], folder: Path, jobs: int, gpus: Sequence[int] = ()) -> None:
        self.grid, self.folder, self.gpus = list(grid), folder, gpus
        self._slots: list[_Worker | None] = [None] * jobs
        self._stopping = False

    def free(self) -> int:
        return sum(worker is None or worker.cell is None for worker in self._slots)

    def start(self, cell: Cell) -> None:
        idle = [slot for slot, worker in enumerate(self._slots) if worker is not None and worker.cell is None]
        slot = idle[0] if idle else self._slots.index(None)
        worker = self._slots[slot]
        if worker is not None and worker.process.poll() is not None:  # it has died without a cell
            worker.leave(_PATIENCE)
            worker = None
        worker = worker or self._open(slot)
        self._slots[slot], worker.cell = worker, cell
        with suppress(OSError):  # one that has died meanwhile is found by `wait`
            worker.connection.send(cell)

    def wait(self, seconds: float) -> list[Ended]:
        end = time.monotonic() + seconds
        while True:
            ended = [
                found
                for slot, worker in enumerate(self._slots)
                if worker is not None and worker.cell is not None and (found := self._look(slot, worker, worker.cell))
            ]
            left = end - time.monotonic()
            if ended or left <= 0:
                return ended
            busy = [worker.connection for worker in self._slots if worker is not None and worker.cell is not None]
            wait(busy, min(left, _GLANCE))

    def stop(self) -> None:
        self._stopping = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._stopping = True
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        if any(worker is not None and worker.cell is not None for worker in self._slots):
            self.stop()
        there = [worker for worker in self._slots if worker is not None]
        for worker in there:
            worker.connection.close()
        for worker in there:
            worker.leave(_PATIENCE)
        self._slots = [None] * len(self._slots)

    def _signal(self, number: int) -> None:
        for worker in self._slots:
            if worker is not None:
                worker.end(number)

    def _open(self, slot: int) -> _Worker:
        mine, other = Pipe()
        environment = worker_environment(slot, len(self._slots), self.gpus, os.environ)
        path = make_folder(self.folder / LOGS) / f"worker-{slot + 1}.log"
        with path.open("ab") as log:
            # In a session of its own: Ctrl-C at the terminal is the parent's to hand on.
            process = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(other.fileno())],
                env=environment,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        other.close()
        with suppress(OSError):
            mine.send((self.grid, self.folder.absolute()))
        return _Worker(process, mine)

    def _look(self, slot: int, worker: _Worker, cell: Cell) -> Ended | None:
        """How the worker's cell has ended, if it has."""
        alive = worker.process.poll() is None  # asked first: what it said before it died is still to be read
        try:
            if not worker.connection.poll():
                if alive:
                    return None
                raise EOFError
            ended: Ended = worker.connection.recv()
        except (EOFError, OSError):
            worker.leave(_PATIENCE)
            self._slots[slot] = None
            return self._died(slot, cell, worker.process.returncode)
        worker.cell = None
        if ended.how not in ("done", "busy"):
            worker.leave(_PATIENCE)
            self._slots[slot] = None
        return ended

    def _died(self, slot: int, cell: Cell, code: int) -> Ended:
        if self._stopping:
            return Ended(cell, "interrupted")
        logs = self.folder / LOGS
        log = next(path for path in (logs / f"{cell.folder}.log", logs / f"worker-{slot + 1}.log") if path.exists())
        if code >= 0:
            return Ended(cell, "died", f"Its process ended with exit code {code}.", f"Log: {log}")
        fewer = "Main memory has run out, most likely: use fewer --jobs. " if code == -signal.SIGKILL else ""
        name = signal.Signals(-code).name
        return Ended(cell, "died", f"Its process was killed by signal {-code} ({name}).", f"{fewer}Log: {log}")
