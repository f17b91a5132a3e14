"""One cell of a grid as the disk has it: whether it is trained and scored, and what came out. Nothing loads torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from topiclora_cli.ablation.folders import open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.identity import digest
from topiclora_cli.runs.files import read_json
from topiclora_cli.runs.naming import BY_QUESTION, PROBES, REQUEST, SUMMARY, named_folders
from topiclora_cli.runs.results.ablation import Cost
from topiclora_cli.runs.results.evaluation import ByQuestion, EvalSummary, MeanScores, QuestionScores
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.record import EvalFacts, Manifest
from topiclora_cli.runs.results.routing import ProbeStudy
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.request import adapter_files, digests, request_of

_DELETE = "Delete the cell's folder."


@dataclass(frozen=True)
class CellResult:
    """What a cell has scored, by question, too, where that was kept.

    losses: of a training's last logged step, by name. folder, evaluation: within the grid's folder. settings: the
    sha256 of the cell's. entropy: task -> that of each question's topics by the cell's graph, in nats; topics: what
    each question is about; None where that was not asked for. probes: what probes do to it; unprobed: whether it has
    still to be asked under those of `eval.probes`.
    """

    scores: EvalSummary
    by_question: ByQuestion = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    folder: str = ""
    evaluation: str = ""
    settings: str = ""
    entropy: Mapping[str, Sequence[float]] | None = None
    topics: Mapping[str, Sequence[Sequence[str]]] | None = None
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
    path = evaluation_of(cell, run)
    if path is None:
        return None
    scores, questions = read_result(path, EvalSummary, hint=_DELETE), path.with_name(BY_QUESTION)
    answers = read_result(questions, QuestionScores, hint=_DELETE) if questions.exists() else QuestionScores({})
    manifest = run.manifest
    trained = manifest.trained
    final = trained.final.items() if trained is not None else ()
    return CellResult(
        scores,
        answers.tuned,
        losses={name: value for name, value in final if name.startswith("loss")},
        cost=_cost(cell, manifest, path.parent.name),
        folder=cell.folder,
        evaluation=str(path.parent.relative_to(folder)),
        settings=digest(cell),
        entropy=answers.entropy,
        topics=answers.topics,
        probes=_probes(path.with_name(PROBES)) if cell.recipe.eval.probes else None,
        unprobed=wants_probes(cell) and lacks_probes(path),
    )


def evaluation_of(cell: Cell, run: RunDir) -> Path | None:
    """The latest summary of what the cell asks of the adapter that the run has; None where it was not made yet.

    An adapter that is older than the request is the one whose digests stand there, and is not read again.
    """
    wanted, files = request_of(cell.recipe, "eval"), adapter_files(run)
    for folder in reversed(named_folders(run.path / "eval", SUMMARY)):
        written = folder / REQUEST
        asked = read_json(written, hint=f"Delete {folder}.") if written.is_file() else {}
        if {**asked, "adapter": None} != {**wanted, "adapter": None}:
            continue
        since = written.stat().st_mtime_ns
        known = asked["adapter"].keys() == files.keys() and all(f.stat().st_mtime_ns < since for f in files.values())
        if known or asked["adapter"] == digests(files):
            return folder / SUMMARY
    return None


def wants_probes(cell: Cell) -> bool:
    """Whether its scores alone do not finish a cell."""
    return cell.trained and bool(cell.recipe.eval.probes)


def lacks_probes(summary: Path) -> bool:
    """Whether an evaluation has still to be asked under the probes."""
    return not summary.with_name(PROBES).exists()


def _probes(path: Path) -> ProbeStudy | None:
    return read_result(path, ProbeStudy, hint=_DELETE) if path.exists() else None


def _cost(cell: Cell, manifest: Manifest, evaluation: str) -> Cost:
    """Of its training and of that very evaluation; the base costs no training."""
    training, scoring, trained = manifest.stages.get("train"), manifest.stages.get("eval"), manifest.trained
    latest = scoring.result if scoring is not None else None
    scored = scoring.seconds if scoring and isinstance(latest, EvalFacts) and latest.name == evaluation else None
    if not cell.trained:
        return Cost(parameters=0, activated=0, train_seconds=0.0, eval_seconds=scored)
    peak = training.peak if training is not None else None
    return Cost(
        parameters=trained.total_parameters if trained else None,
        activated=trained.activated_parameters if trained else None,
        train_seconds=training.seconds if training is not None else None,
        eval_seconds=scored,
        resident_gib=peak.resident_gib if peak else None,
        accelerator_gib=peak.accelerator_gib if peak else None,
    )
