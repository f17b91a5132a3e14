"""Cells as tasks of a Ray cluster, each with the processors and the share of a GPU that it asks for.

Runs and locks are files, so that every node has to see the run's folder; what the tasks have in common, the grid, goes
through Ray's object store once. A task that dies is not repeated by Ray: its cell is one that failed.
"""

import math
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import Ended
from topiclora_cli.ablation.launchers.ray_cluster import connect, refuse_unfit_nodes
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.errors import Interrupted
from topiclora_cli.runs.held import holding, is_holding
from topiclora_cli.runs.progress import LoggedProgress, Progress

Attempt = Callable[[Cell, Sequence[Cell], Path, Progress], Ended]

_KEEPING = ExitStack()  # a worker keeps its base model from task to task, as long as it lives
_SLICE = 1.0  # seconds until a signal to this process is passed on
# What a cell reads of its surroundings is the same on every node.
_SURROUNDINGS = ("HF_", "TOPICLORA_", "TRANSFORMERS_", "TOKENIZERS_")


class OnRay:
    """The launcher for a cluster: as many places as options.jobs, or as the cluster has room for.

    Raises TopicLoraError where no cluster answers, none of its nodes has what a cell takes, or one of them lacks the
    package or does not see the folder. attempt: what a task runs, `ablation.attempt.attempt` unless told otherwise.
    """

    def __init__(
        self,
        grid: Sequence[Cell],
        folder: Path,
        progress: Progress,
        options: LaunchOptions,
        attempt: Attempt | None = None,
    ) -> None:
        self._owned = connect(options.address)
        import ray

        self._ray = ray
        self.folder, self.jobs = folder.resolve(), options.jobs
        nodes = [node for node in ray.nodes() if node["Alive"]]
        has_gpus = any(node["Resources"].get("GPU") for node in nodes)
        self.cpus = options.cpus
        self.gpus = (1.0 if has_gpus else 0.0) if options.gpu_share is None else options.gpu_share
        try:
            refuse_unfit_nodes(nodes, self.folder, cpus=self.cpus, gpus=self.gpus)
        except BaseException:
            self.close()
            raise
        self._grid = ray.put(list(grid))
        self._task: Any = ray.remote(_work).options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)
        self._attempt = attempt
        self._cells: dict[Any, Cell] = {}
        self._stopping = False
        progress.say(f"Ray: {self.places()} cells at once on {len(nodes)} node{'s' if len(nodes) > 1 else ''}.")

    def places(self) -> int:
        """How many cells run at once; of a cluster that grows, as it is now."""
        if isinstance(self.jobs, int):
            return self.jobs
        there = self._ray.cluster_resources()
        room = [there.get("CPU", 0.0) / self.cpus] if self.cpus else []
        room += [there.get("GPU", 0.0) / self.gpus] if self.gpus else []
        return max(1, math.floor(min(room, default=1.0)))

    def free(self) -> int:
        return max(0, self.places() - len(self._cells))

    def start(self, cell: Cell) -> None:
        around = {name: value for name, value in os.environ.items() if name.startswith(_SURROUNDINGS)}
        ref = self._task.remote(cell, self._grid, str(self.folder), str(Path.cwd()), around, self._attempt)
        self._cells[ref] = cell

    def wait(self, seconds: float) -> list[Ended]:
        while seconds > 0 and self._cells:
            if self._stopping:
                self._stopping = False
                for ref in self._cells:
                    self._ray.cancel(ref, force=False)
            ready, _ = self._ray.wait(list(self._cells), timeout=min(_SLICE, seconds))
            if ready:
                return [self._outcome(ref, self._cells.pop(ref)) for ref in ready]
            seconds -= _SLICE
        return []

    def stop(self) -> None:
        # By a signal's handler, which may stand in the middle of a call to Ray.
        self._stopping = True

    def kill(self) -> None:
        """What runs is ended by `close`, which follows."""

    def close(self) -> None:
        for ref in getattr(self, "_cells", ()):
            self._ray.cancel(ref, force=True)
        if self._owned:
            self._ray.shutdown()

    def _outcome(self, ref: Any, cell: Cell) -> Ended:
        from ray import exceptions

        try:
            ended: Ended = self._ray.get(ref)
        except exceptions.TaskCancelledError:
            return Ended(cell, "interrupted")
        except exceptions.OutOfMemoryError:
            return Ended(cell, "died", "Its node ran out of memory.", "Raise --cell-cpus, or lower train.batch_size.")
        except exceptions.WorkerCrashedError:
            return Ended(cell, "died", "Its Ray worker died.", "Try again with --retry-failed.")
        except exceptions.RayError as error:
            return Ended(cell, "died", f"Ray: {_last_line(error)}", "Try again with --retry-failed.")
        return ended


def _work(
    cell: Cell,
    grid: Sequence[Cell],
    folder: str,
    here: str,
    surroundings: dict[str, str],
    attempt: Attempt | None,
) -> Ended:
    """What a task runs on its node."""
    os.environ.update(surroundings)
    # What a script starts in its background ignores SIGINT, and so do the workers of a Ray that began there:
    # ray.cancel, which interrupts as that signal does, would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not is_holding():
        _KEEPING.enter_context(holding())
    os.chdir(here if Path(here).is_dir() else folder)
    if attempt is None:
        from topiclora_cli.ablation import attempt as ours

        attempt = ours.attempt
    try:
        return attempt(cell, grid, Path(folder), LoggedProgress())
    except (KeyboardInterrupt, Interrupted):
        return Ended(cell, "interrupted")


def _last_line(error: Exception) -> str:
    """What the error is: Ray puts the traceback of the task before it."""
    return str(error).strip().splitlines()[-1]
