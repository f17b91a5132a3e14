"""What is reported of one run or of several, in which order."""

from collections.abc import Sequence

from topiclora_cli.reporting.asked import again, asked, cost, environment
from topiclora_cli.reporting.found import ablation, data, exports, graph, training
from topiclora_cli.reporting.material import Material, read_material
from topiclora_cli.reporting.models import several_models
from topiclora_cli.reporting.probed import probe_studies
from topiclora_cli.reporting.routed import routing_studies
from topiclora_cli.reporting.scored import scores
from topiclora_cli.reporting.sections import Report, Section, Text
from topiclora_cli.reporting.short import in_short, sample_answers
from topiclora_cli.runs.run import RunDir

_LACKING = {"graph": "topic graph", "train": "training", "eval": "evaluation", "merge": "export"}


def compose(runs: Sequence[RunDir]) -> Report:
    """The report of the runs; raises TopicLoraError for what cannot be read."""
    material = read_material(runs)
    # Of several runs what they differ in comes first, of a single one what came of it.
    before = [asked(material)] if len(runs) > 1 else [in_short(material)]
    after = [] if len(runs) > 1 else [asked(material)]
    found = [
        *before,
        training(material),
        sample_answers(material),
        *scores(material),
        *several_models(material),
        *routing_studies(material),
        *probe_studies(material),
        *exports(material),
        graph(material),
        *ablation(material),
        data(material),
        *_lacking(material),
        *after,
        cost(material),
        again(material),
        environment(material),
    ]
    sections = [section for section in found if section]
    labels = [run.label for run in material]
    return Report(_title(material), _lead(material), labels, sections)


def _title(runs: Sequence[Material]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side"
    return f"{runs[0].manifest.name}, seed {runs[0].manifest.seed}"


def _lead(runs: Sequence[Material]) -> str:
    if len(runs) > 1:
        return ", ".join(run.label for run in runs)
    model = f" on {runs[0].recipe.model.name}" if runs[0].recipe else ""
    method = f"{runs[0].recipe.adapter.method}{model}; " if runs[0].recipe else ""
    return f"{method}created {runs[0].manifest.created.replace('T', ', ').replace('+00:00', ' UTC')}"


def _lacking(runs: Sequence[Material]) -> list[Section]:
    """Which stages have no result, and how they went."""
    lines = []
    for run in runs:
        words = []
        for stage, name in _LACKING.items():
            record = run.manifest.stages.get(stage)
            if record is None and _wants(run, stage):
                words.append(f"{name} not made")
            elif record is not None and record.state != "done":
                words.append(f"{name} {record.state}")
        if words:
            lines.append(f"{f'{run.label}: ' if len(runs) > 1 else ''}{', '.join(words)}.")
    return [Section("Not in this report", [Text(line) for line in lines])] if lines else []


def _wants(run: Material, stage: str) -> bool:
    """Whether a run of its recipe has that stage at all; a baseline, say, needs no graph."""
    if run.stage("ablation") and not run.stage("train"):
        return False  # a grid, whose cells have their own
    if run.recipe is None:
        return stage != "graph"
    return {"graph": run.recipe.needs_graph, "merge": run.recipe.adapter.exports}.get(stage, True)
