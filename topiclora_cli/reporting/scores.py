"""What was measured, as tables: one evaluation, and all evaluations and exports of a run."""

from collections.abc import Mapping

from topiclora_cli.reporting.formats import Figure, mean_name, measured, metric_label, metric_name, percent
from topiclora_cli.reporting.table import Cell, Table, columns, row
from topiclora_cli.runs.outcomes import evaluations_of, exports_of
from topiclora_cli.runs.results.evaluation import EvalSummary, MeanScores, TaskScores
from topiclora_cli.runs.run import RunDir

SCORES = "Scores ± standard error; ↑ higher, ↓ lower is better"
_HEADINGS: Mapping[Figure, str] = {"base": "base", "tuned": "tuned", "delta": "difference"}


def eval_table(summary: EvalSummary, *, title: str = SCORES) -> Table:
    """Headline metric of each task and group, base and difference where the base was measured, and the mean."""
    kinds = tuple(_HEADINGS) if any(task.base is not None for task in summary.tasks) else ("tuned",)
    rows = [
        [
            Cell(task.task, indent=task.depth),
            *row(task_metric(task), f"{task.count:,}", *(measured(task, kind) for kind in kinds)),
        ]
        for task in summary.tasks
    ]
    if (mean := summary.mean) and len(mean.of) > 1:
        figures = (measured(mean, kind) for kind in kinds)
        rows.append(row(f"mean of {len(mean.of)}", mean_metric(mean, summary), "", *figures, strong=True))
    headings = columns("task", "metric", "n", *(_HEADINGS[kind] for kind in kinds), right=2)
    return Table(title, headings, rows, note=" ".join(summary.notes) if title else "")


def task_metric(task: TaskScores) -> str:
    """What a task's headline metric is called, with its unit and direction."""
    return metric_label(metric_name(task), task)


def mean_metric(mean: MeanScores, summary: EvalSummary) -> str:
    """What the mean is taken over, one metric or several of one kind, with its unit and direction."""
    return metric_label(mean_name(mean, summary.tasks), mean)


def evaluations_table(run: RunDir) -> Table:
    """Every evaluation of a run by its mean, the latest last."""
    rows = []
    for name, summary in evaluations_of(run).items():
        cells = [""] * 5
        if mean := summary.mean:
            figures = (measured(mean, kind) for kind in _HEADINGS)
            cells = [str(len(mean.of)), mean_metric(mean, summary), *figures]
        rows.append(row(name, *cells))
    return Table("Evaluations, the latest last", columns("evaluation", "mean of", "metric", *_HEADINGS.values()), rows)


def exports_table(run: RunDir) -> Table:
    """Every export with fixed gates of a run, the latest last."""
    found = exports_of(run).items()
    rows = [row(name, export.gates, f"{export.kl:.4f}", percent(export.agreement)) for name, export in found]
    return Table("Exports, the latest last", columns("export", "gates", "KL", "same top token, %"), rows)
