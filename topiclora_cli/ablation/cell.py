"""One cell of a grid: a run directory of its own, trained and scored where it is not yet."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from topiclora_cli.ablation.finished import CellResult, read_cell
from topiclora_cli.ablation.folders import LOCKS, diverged, open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.identity import create_cell
from topiclora_cli.ablation.pruning import pruned
from topiclora_cli.errors import Diverged, TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.run import RECIPE, RunDir, is_run
from topiclora_cli.stages.build_graph import build_graph as build_graph_stage
from topiclora_cli.stages.evaluate import evaluate as evaluate_stage
from topiclora_cli.stages.inputs import GRAPH
from topiclora_cli.stages.studies import Wanted, study
from topiclora_cli.stages.train import train as train_stage

PRIORS = ".priors"  # of all cells, by what they are priors of


def make_cell(folder: Path, cell: Cell) -> RunDir:
    """The cell's run, which this process has taken, new where there is none yet.

    Raises TopicLoraError where it has other settings.
    """
    run = open_cell(folder, cell)
    if run is None:
        # Left over from a process that was killed between a new run's two files.
        (folder / cell.folder / RECIPE).unlink(missing_ok=True)
        run = create_cell(folder, cell)
    return run


def train_cell(folder: Path, cell: Cell, grid: Sequence[Cell], progress: Progress) -> RunDir:
    """Stage 1, from another cell of the `grid` that has the same, and training, as far as they are not done."""
    run = make_cell(folder, cell)
    if not cell.trained or run.is_done("train") or diverged(run):
        return run
    if cell.recipe.needs_graph and not run.is_done("graph"):
        # Of several processes that need the same one, the first makes it.
        with FileLock(make_folder(folder / LOCKS) / f"graph-{_stage_1(cell.recipe)}.lock"):
            if not _borrow_graph(folder, cell, grid, run):
                build_graph_stage(cell.recipe, run, progress)
    try:
        with pruned(folder, cell) as watch:
            train_stage(
                cell.recipe,
                run,
                progress,
                resume=run.stage("train") is not None,
                watch=watch,
                kept_priors=folder / PRIORS,
            )
    except Diverged as error:
        if not cell.tuned:
            raise
        # One of several values to try: the others go on without it.
        run.update(diverged=error.message)
        progress.say(f"Warning: {cell.folder}: {error.message}")
    if cell.tuned:
        # Nothing goes on from here, and the optimizer's states of many values would fill the disk.
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return run


def score_cell(folder: Path, cell: Cell, progress: Progress) -> CellResult:
    """The result of a trained cell, which is evaluated unless it is already; raises TopicLoraError as `read_cell`."""
    result = read_cell(folder, cell)
    if result is None or result.scores.failed:
        run = RunDir(folder / cell.folder)
        evaluate_stage(cell.recipe, run, progress, untrained=not cell.trained, graphless=True)
        # A cell is kept for its numbers; its optimizer states would fill the disk.
        shutil.rmtree(folder / cell.folder / "checkpoints", ignore_errors=True)
        result = read_cell(folder, cell)
    assert result is not None
    if result.scores.failed:
        raise TopicLoraError(
            f"{folder / cell.folder}: {', '.join(result.scores.failed)} could not be scored.", "See its eval folder."
        )
    if result.scores.mean is None:
        raise TopicLoraError(
            "The tasks' metrics are of different kinds, and cells are compared by one figure.",
            "Choose metrics of one kind with eval.metrics.",
        )
    if result.unprobed:
        section = cell.recipe.eval
        wanted = Wanted(probes=tuple(section.probes), questions=section.probe_questions, alike=True)
        study(cell.recipe, RunDir(folder / cell.folder), progress, wanted, name=result.scores.name)
        result = read_cell(folder, cell)
        assert result is not None
    return result


def _stage_1(recipe: Recipe) -> str:
    """What stage 1 depends on, in 16 characters."""
    data = recipe.model_dump_json(include={"model", "graph", "data", "seed"})
    return sha256(f"{data} {recipe.adapter.graph_experts} {recipe.train.precision}".encode()).hexdigest()[:16]


def _borrow_graph(folder: Path, cell: Cell, grid: Sequence[Cell], run: RunDir) -> bool:
    """Copy the topic graph, and what it says of the examples, from a cell with the same stage 1, if there is any."""
    wanted = _stage_1(cell.recipe)
    for other in grid:
        path = folder / other.folder
        if other.folder == cell.folder or not is_run(path) or _stage_1(other.recipe) != wanted:
            continue
        lender = RunDir(path)
        lent = lender.stage("graph")
        if lent is not None and lent.state == "done":
            shutil.copytree(path / GRAPH, run.path / GRAPH, dirs_exist_ok=True)
            run.record("graph", replace(lent, seconds=0.0, copied_from=other.folder))
            return True
    return False
