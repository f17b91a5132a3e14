"""A cell's folder as it is read and held: nothing here loads torch."""

import errno
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.identity import is_same, settings
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.results.metrics import read_metrics
from topiclora_cli.runs.run import METRICS, RECIPE, RunDir, is_run

LOCKS = ".locks"
_GLANCE = 0.2  # seconds that somebody who only looks may hold a lock
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)  # another's run, or one on a disk that is only read


def open_cell(folder: Path, cell: Cell) -> RunDir | None:
    """The cell's run, None where there is none; raises TopicLoraError where it has other settings, or is damaged."""
    path = folder / cell.folder
    if not is_run(path):  # which it is last of all when somebody makes it
        return None
    try:
        run = RunDir(path)
    except TopicLoraError as error:
        raise TopicLoraError(error.message, f"Delete {path}, and the cell is run anew.") from None
    if not is_same(path, cell) and settings(load_recipe(str(path / RECIPE)), cell) != settings(cell.recipe, cell):
        raise TopicLoraError(
            f"{path} holds a cell with other settings.", "Delete that folder, or run the grid in a new run with --out."
        )
    return run


@contextmanager
def taken(folder: Path, cell: Cell) -> Iterator[bool]:
    """Take the cell for the block; False where another process is at it. It is free again when this process dies."""
    lock = FileLock(make_folder(folder / LOCKS) / f"{cell.folder}.lock", timeout=_GLANCE)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_taken(folder: Path, name: str) -> bool:
    """Whether some process is at the cell with this folder's name."""
    path = folder / LOCKS / f"{name}.lock"
    if not path.exists():
        return False
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        return _is_locked(path)
    lock.release()
    return False


def _is_locked(path: Path) -> bool:
    """Whether some process holds the lock of a file that may be read and not written."""
    if sys.platform == "win32":
        return False
    import fcntl

    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def diverged(run: RunDir) -> bool:
    """Whether the run's loss ceased to be a number, which no other attempt would change."""
    return run.manifest.diverged is not None


def held_out_loss(run: RunDir, cell: Cell) -> float:
    """The loss of a cell's finished training on its held-out examples, in nats per answer token; infinite where it
    diverged.

    Raises TopicLoraError where there were none.
    """
    if diverged(run):
        return float("inf")
    return logged_loss(run.path, best=cell.recipe.train.load_best)


def logged_loss(path: Path, *, best: bool) -> float:
    """The last loss on held-out examples that a training in the folder has logged, or the `best`; infinite where it is
    no number. Raises TopicLoraError where there is none."""
    logged = [row.values["eval_loss"] for row in read_metrics(path / METRICS) if "eval_loss" in row.values]
    # The last step of all may spoil the weights, and no later one tells.
    losses = [loss if math.isfinite(loss) else math.inf for loss in logged]
    if not losses:
        raise TopicLoraError(
            f"{path} has no loss on held-out examples to choose by.", "Raise data.validation, in a new run."
        )
    return float(min(losses) if best else losses[-1])
