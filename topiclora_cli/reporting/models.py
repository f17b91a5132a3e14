"""Several models on the same questions, as one table."""

from collections.abc import Sequence

from topiclora_cli.reporting.by_topic import NOTE, difference
from topiclora_cli.reporting.formats import measured
from topiclora_cli.reporting.material import Material
from topiclora_cli.reporting.scores import mean_metric, task_metric
from topiclora_cli.reporting.sections import Part, Section, Text
from topiclora_cli.reporting.table import Cell, Table, columns, row
from topiclora_cli.runs.results.evaluation import MeanScores, TaskScores
from topiclora_cli.runs.results.models import Measured, ModelScores

_SURE = 0.05


def several_models(runs: Sequence[Material]) -> list[Section]:
    """A section for each evaluation of several models."""
    sections = []
    for run in runs:
        whose = f", {run.label}" if len(runs) > 1 else ""
        for name, found in run.models.items():
            parts: list[Part] = [Text("Several models on the same questions."), models_table(found)]
            parts += models_by_topic_tables(found)
            parts += [Text(f"Not scored: {what} ({why}).") for what, why in found.failed.items()]
            sections.append(Section(f"Models side by side, `{name}`{whose}", parts))
    return sections


def models_table(found: ModelScores) -> Table:
    """Headline metric of each task and group by model, and the difference of each from the first."""
    first, others = found.models[0], found.models[1:]
    headings = [first.label, *(heading for each in others for heading in (each.label, f"minus {first.label}"))]
    rows = []
    for task in first.scores.tasks:
        same = [_row(each, task.task) for each in others]
        cells = [
            measured(task, "tuned"),
            *(cell for each, own in zip(others, same, strict=True) for cell in _cells(each, own)),
        ]
        rows.append([Cell(task.task, indent=task.depth), *row(task_metric(task), f"{task.count:,}", *cells)])
    mean = first.scores.mean
    if mean is not None and len(mean.of) > 1:
        cells = [measured(mean, "tuned"), *(cell for each in others for cell in _mean_cells(each.scores.mean, mean))]
        rows.append(row(f"mean of {len(mean.of)}", mean_metric(mean, first.scores), "", *cells, strong=True))
    note = f"* p < {_SURE} on the questions that both answered, after Holm." if others else ""
    note = " ".join([*([note] if note else []), *first.scores.notes])
    return Table("Scores ± standard error", columns("task", "metric", "n", *headings, right=2), rows, note)


def models_by_topic_tables(found: ModelScores) -> list[Table]:
    """Each model's scores by topic, and the difference of each from the first; none where nothing was sorted."""
    if found.by_topic is None:
        return []
    (first, own), *others = found.by_topic.models.items()
    headings = [f"{first}, %", *(heading for label, _ in others for heading in (f"{label}, %", f"minus {first}"))]
    by_name = [{part.part: part for part in parts} for _, parts in others]
    rows = [
        row(
            part.part,
            f"{part.count:,}",
            measured(part, "tuned"),
            *(text for each in by_name for text in (measured(each[part.part], "tuned"), difference(each[part.part]))),
        )
        for part in own
    ]
    note = f"A question's topic is its data's own, else the one that the graph of {found.by_topic.graph} finds it most"
    note = f"{note} about.{f' {NOTE}' if others else ''}"
    title = f"Scores by topic, by the graph of {found.by_topic.graph}"
    return [Table(title, columns("topic", "n", *headings, right=1), rows, note)]


def _row(model: Measured, task: str) -> TaskScores | None:
    return next((each for each in model.scores.tasks if each.task == task), None)


def _cells(model: Measured, own: TaskScores | None) -> Sequence[str]:
    if own is None:
        return "", ""
    test = model.tests.get(own.task)
    sure = test is not None and test.p_holm is not None and test.p_holm < _SURE
    return measured(own, "tuned"), measured(own, "delta") + ("*" if sure else "")


def _mean_cells(mean: MeanScores | None, first: MeanScores) -> Sequence[str]:
    if mean is None or mean.of != first.of:
        return "", ""
    return measured(mean, "tuned"), measured(mean, "delta")
