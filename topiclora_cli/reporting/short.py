"""Of a report of one run: what came of it in a few lines, and some answers before and after training."""

from collections.abc import Sequence

from topiclora_cli.evaluation.comparison.flips import Flip
from topiclora_cli.evaluation.comparison.samples import sample_flips
from topiclora_cli.reporting.material import Material
from topiclora_cli.reporting.sections import Section, Text
from topiclora_cli.reporting.summary import export_lines, headline, routing_line
from topiclora_cli.reporting.table import Table, columns, row

SAMPLES = 3


def in_short(runs: Sequence[Material]) -> Section | None:
    """The latest evaluation's mean and routing, the latest export, and how many alarms there were, of a single run."""
    if len(runs) > 1:
        return None
    (run,) = runs
    texts = []
    if run.evaluations:
        latest = list(run.evaluations.values())[-1]
        texts += [f"{headline(latest)}.", *([f"{routing_line(latest.routing)}."] if latest.routing else [])]
    if run.exports:
        texts.append(f"Export: {export_lines(list(run.exports.values())[-1], {})[-1]}.")
    if run.training:
        number = len(run.training.alarms)
        said = f"{number} alarm{'s' * (number > 1)}: see Training" if number else "no alarms"
        texts.append(f"{run.training.steps:,} steps on {run.training.examples:,} examples; {said}.")
    return Section("In short", [Text(text) for text in texts]) if texts else None


def sample_answers(runs: Sequence[Material]) -> Section | None:
    """Questions that a single run's base and tuned model answered differently, one of every task in turn."""
    flips = _flips(runs[0]) if len(runs) == 1 else []
    if not flips:
        return None
    rows = [
        row(each.task, each.question, each.right, each.baseline, f"{each.answer} ({'right' if each.won else 'wrong'})")
        for each in flips
    ]
    heads = columns("task", "question", "right answer", "before", "after")
    return Section("Answers before and after", [Table("", heads, rows)])


def _flips(run: Material) -> list[Flip]:
    for name, summary in reversed(list(run.evaluations.items())):
        folder = run.path / "eval" / name
        if (folder / "base").is_dir() and (folder / "tuned").is_dir():
            return sample_flips(folder, {task.task: task.key for task in summary.tasks if not task.group}, SAMPLES)
    return []
