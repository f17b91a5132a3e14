"""One cell of a grid: a run directory of its own, trained and scored where it is not yet."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from topiclora_cli.ablation.folders import LOCKS, diverged, open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.pruning import pruned
from topiclora_cli.errors import Diverged, TopicLoraError
from topiclora_cli.recipe import Recipe, dump_recipe
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.naming import BY_QUESTION, SUMMARY, finished
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.evaluation import ByQuestion, EvalSummary, MeanScores, QuestionScores
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.run import RECIPE, RunDir
from topiclora_cli.stages.build_graph import build_graph as build_graph_stage
from topiclora_cli.stages.evaluate import evaluate as evaluate_stage
from topiclora_cli.stages.inputs import GRAPH, asked_for
from topiclora_cli.stages.train import train as train_stage

_DELETE = "Delete the cell's folder."


@dataclass(frozen=True)
class CellResult:
    """What a cell has scored, by question, too, where that was kept.

    losses: of a training's last logged step, by name. parameters: all that were trained; None if nobody counted them.
    """

    scores: EvalSummary
    by_question: ByQuestion = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    parameters: int | None = None

    @property
    def comparable(self) -> bool:
        """Whether it is scored in full, and by one figure."""
        return not self.scores.failed and self.scores.mean is not None

    @property
    def mean(self) -> MeanScores:
        """The figure of a comparable cell."""
        assert self.scores.mean is not None
        return self.scores.mean


def make_cell(folder: Path, cell: Cell) -> RunDir:
    """The cell's run, new where there is none yet; raises TopicLoraError where it has other settings."""
    run = open_cell(folder, cell)
    if run is not None:
        return run
    return RunDir.create(folder / cell.folder, recipe_yaml=dump_recipe(cell.recipe), name=cell.name, seed=cell.seed)


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
            train_stage(cell.recipe, run, progress, resume=run.stage("train") is not None, watch=watch)
    except Diverged as error:
        if not cell.tuned:
            raise
        # One of several values to try: the others go on without it.
        run.update(diverged=error.message)
        progress.say(f"Warning: {cell.folder}: {error.message}")
    return run


def score_cell(folder: Path, cell: Cell, progress: Progress) -> CellResult:
    """The result of a trained cell, which is evaluated unless it is already; raises TopicLoraError as `read_cell`."""
    result = read_cell(folder, cell)
    if result is None or result.scores.failed:
        evaluate_stage(cell.recipe, RunDir(folder / cell.folder), progress, untrained=not cell.trained)
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
    return result


def read_cell(folder: Path, cell: Cell) -> CellResult | None:
    """Scores of a cell, by question, too, with its last losses and parameters; None where it is not scored."""
    run = open_cell(folder, cell)
    if run is None or (cell.trained and not run.is_done("train")):
        return None
    # Its own evaluation: somebody may have made others in the cell since.
    path = finished(run.path / "eval", SUMMARY, asked_for(cell.recipe, run, "eval"))
    if path is None:
        return None
    scores, questions = read_result(path, EvalSummary, hint=_DELETE), path.with_name(BY_QUESTION)
    by_question = read_result(questions, QuestionScores, hint=_DELETE).tuned if questions.exists() else {}
    trained = run.manifest.trained
    if trained is None:
        return CellResult(scores, by_question, parameters=None if cell.trained else 0)
    losses = {name: value for name, value in trained.final.items() if name.startswith("loss")}
    return CellResult(scores, by_question, losses, trained.total_parameters)


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
        lent = lender.stage("graph")
        if lent is not None and lent.state == "done":
            shutil.copytree(path / GRAPH, run.path / GRAPH, dirs_exist_ok=True)
            run.record("graph", replace(lent, seconds=0.0, copied_from=other.folder))
            return True
    return False
