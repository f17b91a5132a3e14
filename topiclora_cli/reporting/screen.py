"""A finished quickstart on one screen: its scores, its routing, alarms, costs, files, and what to try next."""

import textwrap
from collections.abc import Sequence

from topiclora_cli.recipe import Recipe
from topiclora_cli.reporting.formats import duration
from topiclora_cli.reporting.summary import WIDTH, export_lines, headline, routing_line, score_lines
from topiclora_cli.runs.commands import RUNS, command_line
from topiclora_cli.runs.results.evaluation import EvalSummary
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.metrics import LoggedStep, read_metrics
from topiclora_cli.runs.run import METRICS, RunDir

LINES = 24
_STAGES = {"graph": "graph", "train": "training", "eval": "evaluation", "merge": "export", "ablation": "ablation"}
_PROMPT = "What is 17 times 3?"


def results(run: RunDir, scores: EvalSummary, export: Export | None) -> list[str]:
    """What came of a run, in lines of at most WIDTH columns."""
    lines = [headline(scores), *score_lines(scores)]
    if scores.routing:
        lines.append(routing_line(scores.routing))
    if export:
        lines.append(f"Export: {export_lines(export, {})[-1]}")
    return [*lines, *alarm_lines(read_metrics(run.path / METRICS)), costs(run)]


def alarm_lines(rows: Sequence[LoggedStep]) -> list[str]:
    """The alarms of a training, a line each, the text up to its first full stop."""
    raised = [(row.step, text) for row in rows for text in row.alarms.values()]
    lines = [f"Alarm at step {step}: {text.split('. ')[0]}" for step, text in raised]
    return [textwrap.shorten(line, WIDTH, placeholder=" ...") for line in lines] or ["No alarms."]


def costs(run: RunDir) -> str:
    """How long each stage took, and the most memory that one held."""
    stages = {_STAGES[name]: record for name, record in run.manifest.stages.items() if name in _STAGES}
    times = [f"{name} {duration(record.seconds)}" for name, record in stages.items() if record.seconds is not None]
    peaks = [record.peak.resident_gib for record in stages.values() if record.peak and record.peak.resident_gib]
    return f"Took {', '.join(times)}{f'; peak {max(peaks):.1f} GiB' if peaks else ''}"


def files(run: RunDir, *, exported: bool) -> list[str]:
    """Where it all lies."""
    parts = ["report.md", "adapter/", "merged/*/lora/" if exported else "", "eval/"]
    page = run.path / "graph" / "report.html"
    parts.insert(1, "graph/report.html" if page.is_file() else "")
    return textwrap.wrap(f"In {run.path}: {', '.join(filter(None, parts))}", WIDTH, break_on_hyphens=False)


def following(settings: Recipe, run: RunDir, recipe: str, topics: Sequence[str]) -> list[str]:
    """Commands to go on with, as they are typed here, and what one needs that the run did not; of the latest run its
    folder goes unsaid.
    """
    which: list[object] = [] if run.path.parts[:1] == (RUNS,) else ["--run", run.path]
    exports, topic = settings.adapter.exports, next((t for t in topics if t == "arithmetic"), next(iter(topics), None))
    commands: list[list[object]] = [
        ["route", _PROMPT, *which] if settings.adapter.routes else [],
        ["chat", *which],
        ["merge", "--gates", f"topic:{topic}", *which] if exports and topic else [],
        ["ablate", "--recipe", run.path / "recipe.yaml"] if settings.ablation.cells else [],
        ["recipes", "copy", recipe, "mine.yaml"],
    ]
    hub = f"{command_line('eval', '--tasks', 'arc_easy', '--limit', 100, *which)}   # reads from a model hub"
    return [*(command_line(*each) for each in commands if each), hub]
