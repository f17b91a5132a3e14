"""What a stage says when it ends, in two lines: what came out, and how good it is; and all stages on one screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from topiclora_cli.reporting.formats import measure, measured, percent
from topiclora_cli.reporting.scores import mean_metric, task_metric
from topiclora_cli.reporting.verdicts import AGREEMENT, IN_USE, graph_verdicts, verdict
from topiclora_cli.runs.results.evaluation import Compared, EvalSummary, RoutingReport, TaskScores
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.graph import GraphReport
from topiclora_cli.runs.results.metrics import LoggedStep
from topiclora_cli.runs.results.training import TrainResult

WIDTH = 80  # columns of the screen
MOST_TASKS = 16
MEAN_OF = 10  # logged steps at either end of a training
_NAME = 21  # columns of a task's name


def graph_lines(report: GraphReport) -> list[str]:
    """Two lines on a topic graph."""
    words = graph_verdicts(report)
    facts = [f"modularity {report.assignment.modularity:.2f} ({words['modularity']})"]
    if report.links:
        facts.append(f"hidden ties told with AUC {report.links.auc:.2f} ({words['auc']})")
    empty = f", {len(report.dead_experts)} of them without a topic" if report.dead_experts else ""
    return [f"{report.topics} topics, {report.edges} ties -> {report.experts} experts{empty}", "; ".join(facts)]


def train_lines(result: TrainResult, rows: Sequence[LoggedStep]) -> list[str]:
    """Two lines on a training, whose losses are means over its first and its last logged steps."""
    sizes = f"{result.total_parameters:,} parameters, {result.activated_parameters:,} active"
    courses = []
    for key, name in {"loss_lm": "loss", "loss_kl": "KL to the topics"}.items():
        values = [row.values[key] for row in rows if key in row.values]
        if len(values) > 1:
            part = min(MEAN_OF, len(values) // 2)
            courses.append(f"{name} {fmean(values[:part]):.2f} -> {fmean(values[-part:]):.2f}")
    number = len(result.alarms)
    alarms = f"{number} alarm{'s' * (number > 1)}" if number else "no alarms"
    return [f"{result.steps:,} steps on {result.examples:,} examples; {sizes}", "; ".join([*courses, alarms])]


def eval_lines(summary: EvalSummary) -> list[str]:
    """Two lines on an evaluation: its mean, and what the routers do with topics."""
    lines = [headline(summary)]
    if summary.routing:
        lines.append(routing_line(summary.routing))
    return lines


def headline(summary: EvalSummary) -> str:
    """The mean of an evaluation, tuned and base, with the error of their difference."""
    tasks = [task for task in summary.tasks if not task.group]
    questions = sum(task.count for task in tasks)
    of = f"{questions:,} questions of {len(tasks)} task{'s' * (len(tasks) != 1)}"
    mean: Compared
    if summary.mean is not None:
        mean, name = summary.mean, mean_metric(summary.mean, summary)
    elif len(tasks) == 1:
        mean, name = tasks[0], task_metric(tasks[0])
    else:
        return f"{of}, by metrics of several kinds"
    if mean.base is None:
        return f"tuned {measured(mean, 'tuned')} ({name}; {of})"
    tuned, base = (measure(value, mean.unit) for value in (mean.tuned, mean.base))
    return f"tuned {tuned}, base {base}: {measured(mean, 'delta')} ({name}; {of})"


def routing_line(routing: RoutingReport) -> str:
    """How many experts are in use, and how much they tell of topics."""
    experts = len(next(iter(routing.by_topic.values())))
    used = f"{routing.experts_in_use:.1f} of {experts} experts in use"
    word = verdict(routing.experts_in_use / experts, IN_USE)
    return f"{used} over all layers ({word}); expert and topic share {routing.mutual_information:.2f} nats"


def export_lines(export: Export, folders: Mapping[str, Path]) -> list[str]:
    """Two lines on an export: where it lies, and how far it is from the routed model."""
    word = verdict(export.agreement, AGREEMENT)
    return [
        f"gates fixed at {export.gates}; {' and '.join(map(str, folders.values()))}",
        f"same top token as the routed model at {percent(export.agreement)} % of answer tokens ({word})",
    ]


def score_lines(summary: EvalSummary) -> list[str]:
    """Every task's scores, two to a line; of many tasks, those that moved the most."""
    tasks = [task for task in summary.tasks if not task.group]
    shown = sorted(tasks, key=lambda task: -abs(task.delta or 0.0))[:MOST_TASKS]
    shown = [task for task in tasks if task in shown]
    cells = [_scored(task) for task in shown]
    half = (len(cells) + 1) // 2
    pairs = zip(cells[:half], [*cells[half:], ""][:half], strict=True)
    lines = ["  ".join(pair).rstrip() for pair in pairs]
    if left := len(tasks) - len(shown):
        lines.append(f"and {left} more that moved less, in report.md")
    return lines


def _scored(task: TaskScores) -> str:
    name = task.task.removeprefix("topiclora_")
    name = name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
    before = f"{measure(task.base, task.unit):>5} -> " if task.base is not None else ""
    return f"{name:{_NAME}} {before}{measure(task.tuned, task.unit):>5}"
