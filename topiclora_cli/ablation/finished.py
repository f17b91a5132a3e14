"""One cell of a grid as the disk has it: whether it is trained and scored, and what came out. Nothing loads torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from topiclora_cli.ablation.folders import open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.runs.naming import BY_QUESTION, PROBES, SUMMARY, finished
from topiclora_cli.runs.results.evaluation import ByQuestion, EvalSummary, MeanScores, QuestionScores
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.routing import ProbeStudy
from topiclora_cli.stages.request import asked_for

_DELETE = "Delete the cell's folder."


@dataclass(frozen=True)
class CellResult:
    """What a cell has scored, by question, too, where that was kept.

    losses: of a training's last logged step, by name. parameters: all that were trained; None if nobody counted them.
    entropy: task -> that of each question's topics by the cell's graph, in nats; None where that was not asked for.
    probes: what probes do to it; unprobed: whether it has still to be asked under those of `eval.probes`.
    """

    scores: EvalSummary
    by_question: ByQuestion = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    parameters: int | None = None
    entropy: Mapping[str, Sequence[float]] | None = None
    probes: ProbeStudy | None = None
    unprobed: bool = False

    @property
    def comparable(self) -> bool:
        """Whether it is scored in full, under every probe that was asked for, too, and by one figure."""
        return not self.scores.failed and self.scores.mean is not None and not self.unprobed

    @property
    def mean(self) -> MeanScores:
        """The figure of a comparable cell."""
        assert self.scores.mean is not None
        return self.scores.mean


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
    answers = read_result(questions, QuestionScores, hint=_DELETE) if questions.exists() else QuestionScores({})
    trained = run.manifest.trained
    if trained is None:
        return CellResult(scores, answers.tuned, parameters=None if cell.trained else 0, entropy=answers.entropy)
    losses = {name: value for name, value in trained.final.items() if name.startswith("loss")}
    probes = _probes(path.with_name(PROBES)) if cell.recipe.eval.probes else None
    return CellResult(
        scores,
        answers.tuned,
        losses,
        trained.total_parameters,
        answers.entropy,
        probes,
        unprobed=probes is None and cell.trained and bool(cell.recipe.eval.probes),
    )


def _probes(path: Path) -> ProbeStudy | None:
    return read_result(path, ProbeStudy, hint=_DELETE) if path.exists() else None
