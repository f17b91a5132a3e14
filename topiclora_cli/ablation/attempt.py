"""An attempt at a cell, which costs that cell alone whatever goes wrong in it."""

import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.ablation.cell import make_cell, score_cell, train_cell
from topiclora_cli.ablation.failures import TRACEBACK, forget_failure, read_failure, record_failure
from topiclora_cli.ablation.folders import taken
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import Ended
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import Diverged, Interrupted, TopicLoraError, first_line
from topiclora_cli.runs.files import is_full_disk
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.run import RunDir
from topiclora_cli.training.guard import is_full_memory

_LESS = "Lower train.batch_size or eval.batch_size, or run fewer cells at once."


def attempt(cell: Cell, grid: Sequence[Cell], folder: Path, progress: Progress) -> Ended:
    """Train the cell of the grid in `folder` and score it, as far as that is not done; the outcome is on disk.

    Interruptions pass through, and what keeps the cell's folder from being written, but for a full disk.
    """
    try:
        return _attempt(cell, grid, folder, progress)
    except Exception as error:
        if not is_full_disk(error):
            raise
        return Ended(cell, "full")


def _attempt(cell: Cell, grid: Sequence[Cell], folder: Path, progress: Progress) -> Ended:
    with taken(folder, cell) as mine:
        if not mine:
            return Ended(cell, "busy")
        began = time.monotonic()
        run = make_cell(folder, cell)
        failure = read_failure(run.path)
        if failure is not None and failure.diverged:
            run.update(diverged=None)  # it is tried again because somebody asked for it
        try:
            _run(cell, Work(grid, folder), progress)
        except Exception as error:
            if isinstance(error, Interrupted) or is_full_disk(error):
                raise
            if isinstance(error, TopicLoraError):
                record_failure(run, cell, error.message, error.hint, diverged=isinstance(error, Diverged))
                return Ended(cell, "failed", error.message, error.hint)
            reason, hint = explained(error, run)
            record_failure(run, cell, reason, hint, traceback=traceback.format_exc())
            return Ended(cell, "failed", reason, hint)
        forget_failure(run.path)
        return Ended(cell, "done", seconds=time.monotonic() - began)


def explained(error: Exception, run: RunDir) -> tuple[str, str]:
    """What an error that no user was meant to see says in a line, and what to do about it."""
    log = run.path / TRACEBACK
    said = first_line(error) if str(error).strip() else ""
    reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return (reason, f"{_LESS} Traceback: {log}") if is_full_memory(error) else (reason, f"Traceback: {log}")


def _run(cell: Cell, work: Work, progress: Progress) -> None:
    run = train_cell(work.folder, cell, work.grid, progress)
    if not work.is_chosen(cell):
        return
    if (why := run.manifest.diverged) is not None:
        raise Diverged(f"{run.path}: {why}", "Lower its learning rate.")
    score_cell(work.folder, cell, progress)
