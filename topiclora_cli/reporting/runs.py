"""All runs at a glance: what each was asked, how far it came, what it scored and what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.reporting.differences import recipe_of
from topiclora_cli.reporting.formats import measure
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.naming import SUMMARY, named_folders
from topiclora_cli.runs.results.evaluation import EvalSummary, MeanScores
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.record import Manifest
from topiclora_cli.runs.run import RunDir

_HASH = "sha256"  # what only a program compares


@dataclass(frozen=True)
class RunLine:
    """A run in a line; None for what it has not, or what an earlier version wrote in a way that is not read any more.

    created: ISO 8601, UTC. stages: state by name. score: mean of the tuned model in the latest evaluation that has one,
    of `evaluations`; gain: that less the base's, both in `unit`. seconds: of all its stages together. got_nowhere: the
    command that made it failed before it was trained. damaged: why it cannot be opened.
    """

    name: str
    created: str
    method: str | None
    data: str | None
    stages: dict[str, str]
    score: float | None
    gain: float | None
    unit: str | None
    seconds: float
    got_nowhere: bool
    evaluations: int = 0
    damaged: str | None = None


def run_line(run: RunDir) -> RunLine:
    """What there is to say of a run in a line."""
    manifest = run.manifest
    method, data = _asked(run)
    mean = _latest_mean(run)
    return RunLine(
        name=run.path.name,
        created=manifest.created or "?",
        method=method,
        data=data,
        stages={name: record.state for name, record in manifest.stages.items()},
        score=mean.tuned if mean else None,
        gain=mean.delta if mean else None,
        unit=mean.unit if mean else None,
        seconds=round(sum(record.seconds or 0 for record in manifest.stages.values()), 1),
        got_nowhere=manifest.got_nowhere,
        evaluations=len(named_folders(run.path / "eval", SUMMARY)),
    )


def damaged_line(path: Path, why: str) -> RunLine:
    """The line of a run that cannot be opened."""
    return RunLine(path.name, "?", None, None, {}, None, None, None, 0.0, False, damaged=why)


def runs_table(lines: Sequence[RunLine]) -> Table:
    """Runs, a line each, oldest first."""
    rows = [
        row(
            line.name,
            line.created[:16].replace("T", " "),
            line.method or "-",
            line.data or "-",
            _state(line),
            measure(line.score, line.unit or ""),
            measure(line.gain, line.unit or "", signed=True),
            f"{line.seconds / 60:.1f}" if line.stages else "-",
        )
        for line in lines
    ]
    return Table("", columns("run", "created", "method", "data", "stages", "score", "gain", "minutes", right=5), rows)


def stages_table(manifest: Manifest) -> Table:
    """The stages of a run: how each ended, what it took, and what came out."""
    rows = []
    for name, record in manifest.stages.items():
        facts = {"copied_from": record.copied_from, **(vars(record.result) if record.result is not None else {})}
        said = {key: value for key, value in facts.items() if isinstance(value, str | float | int) and key != _HASH}
        shown = ", ".join(f"{key.replace('_', ' ')} {_said(value)}" for key, value in said.items())
        if record.overridden:
            shown += "; overridden: " + ", ".join(f"{key} {value}" for key, value in record.overridden.items())
        rows.append(row(name, record.state, "" if record.seconds is None else record.seconds, shown))
    return Table("", columns("stage", "state", "seconds", "result"), rows)


def _said(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _state(line: RunLine) -> str:
    if line.damaged is not None:
        return "damaged"
    made = {"eval": f"eval ({line.evaluations})"} if line.evaluations > 1 else {}
    states = [made.get(name, name) if state == "done" else f"{name} {state}" for name, state in line.stages.items()]
    if line.got_nowhere and "failed" not in line.stages.values():
        states.append("then failed" if states else "failed before its first stage")
    return ", ".join(states) or "none"


def _asked(run: RunDir) -> tuple[str | None, str | None]:
    try:
        recipe = recipe_of(run)
    except TopicLoraError:
        return None, None
    return recipe.adapter.method, ", ".join(source.label for source in recipe.data.all_sources)


def _latest_mean(run: RunDir) -> MeanScores | None:
    """Of the latest evaluation that has one: what failed, or has metrics of several kinds, hides no other."""
    for folder in reversed(named_folders(run.path / "eval", SUMMARY)):
        try:
            mean = read_result(folder / SUMMARY, EvalSummary).mean
        except TopicLoraError:
            continue
        if mean is not None:
            return mean
    return None
