"""What became of a cell that failed: a record in its folder, which stays until an attempt succeeds."""

import datetime
from pathlib import Path

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.results.ablation import CellFailure
from topiclora_cli.runs.results.files import read_result, write_result
from topiclora_cli.runs.run import RunDir

FAILURE, TRACEBACK = "failure.json", "failure.log"


def read_failure(path: Path) -> CellFailure | None:
    """The failure on record in a cell's folder, if any; raises TopicLoraError for a damaged one."""
    return read_result(path / FAILURE, CellFailure) if (path / FAILURE).exists() else None


def record_failure(
    run: RunDir, cell: Cell, reason: str, hint: str, *, diverged: bool = False, traceback: str | None = None
) -> CellFailure:
    """Write down why the cell's latest attempt failed; a traceback goes beside it."""
    before = read_failure(run.path)
    failure = CellFailure(
        cell=cell.name,
        seed=cell.seed,
        stage=stage_ahead(run, cell),
        reason=reason,
        hint=hint,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        attempt=before.attempt + 1 if before is not None else 1,
        diverged=diverged,
    )
    if traceback is not None:
        write_text(run.path / TRACEBACK, traceback)
    write_result(run.path / FAILURE, failure)
    return failure


def forget_failure(path: Path) -> None:
    """Take the record away: an attempt has succeeded."""
    for name in (FAILURE, TRACEBACK):
        (path / name).unlink(missing_ok=True)


def stage_ahead(run: RunDir, cell: Cell) -> str:
    """The first stage of a cell that is not done."""
    if cell.trained and not run.is_done("train"):
        return "graph" if cell.recipe.needs_graph and not run.is_done("graph") else "train"
    return "eval"
