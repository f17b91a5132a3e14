"""What was measured, as tables for the terminal: one evaluation, and all evaluations and exports of a run."""

from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from topiclora_cli.reporting.formats import mean_label, measured, metric_label, metric_name, percent
from topiclora_cli.runs.naming import GAP, SUMMARY, named_folders
from topiclora_cli.runs.results.evaluation import EvalSummary
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.run import RunDir


def eval_table(result: EvalSummary) -> Table:
    """Headline metric of each task and group, base and difference where the base was measured, and the mean."""
    rows, mean = result.tasks, result.mean
    with_base = any(row.base is not None for row in rows)
    columns = ["task", "metric", "n", *(["base"] if with_base else []), "tuned", *(["difference"] if with_base else [])]
    title = "Scores ± standard error; ↑ higher, ↓ lower is better"
    table = Table(*columns, title=title, title_justify="left", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    shown = ["base", "tuned", "delta"] if with_base else ["tuned"]
    for row in rows:
        cells = ["  " * row.depth + row.task, metric_label(metric_name(vars(row)), vars(row)), str(row.count)]
        table.add_row(*(Text(cell) for cell in [*cells, *(measured(vars(row), which) for which in shown)]))
    if mean is not None and len(mean.of) > 1:
        cells = [f"mean of {len(mean.of)}", metric_label(mean_label(asdict(result)), vars(mean)), ""]
        table.add_row(
            *(Text(cell) for cell in [*cells, *(measured(vars(mean), which) for which in shown)]), style="bold"
        )
    return table


def evaluations_table(run: RunDir) -> Table:
    """Every evaluation of a run by its mean, the latest last."""
    columns = ("evaluation", "mean of", "metric", "base", "tuned", "difference")
    table = Table(*columns, title="Evaluations, the latest last", title_justify="left", box=None)
    for folder in named_folders(run.path / "eval", SUMMARY):
        result = read_result(folder / SUMMARY, EvalSummary)
        cells = [folder.name, *[""] * 5]
        if mean := result.mean:
            figures = (measured(vars(mean), which) for which in ("base", "tuned", "delta"))
            label = metric_label(mean_label(asdict(result)), vars(mean))
            cells = [folder.name, str(len(mean.of)), label, *figures]
        table.add_row(*map(Text, cells))
    return table


def exports_table(run: RunDir) -> Table:
    """Every export with fixed gates of a run, the latest last."""
    columns = ("export", "gates", "KL", "same top token, %")
    table = Table(*columns, title="Exports, the latest last", title_justify="left", box=None)
    for folder in named_folders(run.path / "merged", GAP):
        export = read_result(folder / GAP, Export)
        table.add_row(*map(Text, (folder.name, export.gates, f"{export.kl:.4f}", percent(export.agreement))))
    return table
