"""One cell of a grid: a run directory of its own, trained and scored where it is not yet."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.errors import Diverged, TopicLoraError
from topiclora_cli.recipe import Recipe, dump_recipe, load_recipe
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.naming import BY_QUESTION, SUMMARY, finished
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.evaluation import EvalSummary, QuestionScores
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.run import METRICS, RECIPE, RunDir, read_metrics
from topiclora_cli.stages.build_graph import build_graph as build_graph_stage
from topiclora_cli.stages.evaluate import evaluate as evaluate_stage
from topiclora_cli.stages.inputs import GRAPH, asked_for
from topiclora_cli.stages.train import train as train_stage

LOCKS = ".locks"
_DELETE = "Delete the cell's folder."


def open_cell(folder: Path, cell: Cell) -> RunDir | None:
    """The cell's run, None where there is none yet; raises TopicLoraError where it has other settings."""
    path = folder / cell.folder
    if not (path / RECIPE).exists():
        return None
    run = RunDir(path)
    there, wanted = (_settings(recipe, cell) for recipe in (load_recipe(str(path / RECIPE)), cell.recipe))
    if there != wanted:
        raise TopicLoraError(
            f"{path} holds a cell with other settings.", "Delete that folder, or run the grid in a new run with --out."
        )
    return run


def train_cell(folder: Path, cell: Cell, grid: Sequence[Cell], progress: Progress) -> RunDir:
    """Stage 1, from another cell of the `grid` that has the same, and training, as far as they are not done."""
    path = folder / cell.folder
    run = open_cell(folder, cell)
    if run is None:
        run = RunDir.create(path, recipe_yaml=dump_recipe(cell.recipe), name=cell.name, seed=cell.seed)
    if not cell.trained or run.is_done("train") or diverged(run):
        return run
    if cell.recipe.needs_graph and not run.is_done("graph"):
        # Of several processes that need the same one, the first makes it.
        with FileLock(make_folder(folder / LOCKS) / f"graph-{_stage_1(cell.recipe)}.lock"):
            if not _borrow_graph(folder, cell, grid, run):
                build_graph_stage(cell.recipe, run, progress)
    try:
        train_stage(cell.recipe, run, progress, resume=bool(run.stage("train")))
    except Diverged as error:
        if not cell.tuned:
            raise
        # One of several values to try: the others go on without it.
        run.update(diverged=error.message)
        progress.say(f"Warning: {path.name}: {error.message}")
    return run


def diverged(run: RunDir) -> bool:
    """Whether the run's loss ceased to be a number, which no other attempt would change."""
    return "diverged" in run.manifest


def held_out_loss(run: RunDir) -> float:
    """The loss of a finished training on its held-out examples, in nats per answer token; infinite where it diverged.

    Raises TopicLoraError where there were none.
    """
    if diverged(run):
        return float("inf")
    losses = [row["eval_loss"] for row in read_metrics(run.path / METRICS) if "eval_loss" in row]
    if not losses:
        raise TopicLoraError(
            f"{run.path} has no loss on held-out examples to choose by.", "Raise data.validation, in a new run."
        )
    kept = load_recipe(str(run.path / RECIPE)).train.load_best
    return float(min(losses) if kept else losses[-1])


def score_cell(folder: Path, cell: Cell, progress: Progress) -> dict[str, Any]:
    """The result of a trained cell, which is evaluated unless it is already; raises TopicLoraError as `read_cell`."""
    result = read_cell(folder, cell)
    if result is None or result["failed"]:
        evaluate_stage(cell.recipe, RunDir(folder / cell.folder), progress, untrained=not cell.trained)
        # A cell is kept for its numbers; its optimizer states would fill the disk.
        shutil.rmtree(folder / cell.folder / "checkpoints", ignore_errors=True)
        result = read_cell(folder, cell)
    assert result is not None
    if result["failed"]:
        raise TopicLoraError(
            f"{folder / cell.folder}: {', '.join(result['failed'])} could not be scored.", "See its eval folder."
        )
    if result["mean"] is None:
        raise TopicLoraError(
            "The tasks' metrics are of different kinds, and cells are compared by one figure.",
            "Choose metrics of one kind with eval.metrics.",
        )
    return result


def read_cell(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """Scores of a cell, by question, too, with its last losses and parameters; None where it is not scored."""
    run = open_cell(folder, cell)
    if run is None or (cell.trained and not run.is_done("train")):
        return None
    # Its own evaluation: somebody may have made others in the cell since.
    scores = finished(run.path / "eval", SUMMARY, asked_for(cell.recipe, run, "eval"))
    if scores is None:
        return None
    result = asdict(read_result(scores, EvalSummary, hint=_DELETE))
    by_question = scores.with_name(BY_QUESTION)
    result["by_question"] = read_result(by_question, QuestionScores, hint=_DELETE).tuned if by_question.exists() else {}
    trained = run.stage("train")
    result |= {key: value for key, value in trained.get("final", {}).items() if key.startswith("loss")}
    facts = {"parameters": trained.get("total_parameters", 0 if not cell.trained else None)}
    return {**result, **facts, "seconds": {name: each.get("seconds") for name, each in run.manifest["stages"].items()}}


def _settings(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    if not cell.trained:
        return {**recipe.model_dump(include={"model", "data", "eval"}), "precision": recipe.train.precision}
    # The grid that a cell is part of, and who said what, change nothing in it.
    return recipe.model_dump(exclude={"ablation"})


def _stage_1(recipe: Recipe) -> str:
    """What stage 1 depends on, in 16 characters."""
    data = recipe.model_dump_json(include={"model", "graph", "data", "seed"})
    return sha256(f"{data} {recipe.adapter.graph_experts} {recipe.train.precision}".encode()).hexdigest()[:16]


def _borrow_graph(folder: Path, cell: Cell, grid: Sequence[Cell], run: RunDir) -> bool:
    """Copy the topic graph, and what it says of the examples, from a cell with the same stage 1, if there is any."""
    wanted = _stage_1(cell.recipe)
    for other in grid:
        path = folder / other.folder
        if other.folder == cell.folder or not (path / RECIPE).exists() or _stage_1(other.recipe) != wanted:
            continue
        lender = RunDir(path)
        if lender.is_done("graph"):
            shutil.copytree(path / GRAPH, run.path / GRAPH, dirs_exist_ok=True)
            run.record("graph", {**lender.stage("graph"), "seconds": 0.0, "copied_from": other.folder})
            return True
    return False
