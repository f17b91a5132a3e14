"""What a published model's card says beyond how to load it: method, budget, scores, topics, what an export costs."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import EvalResult

from topiclora_cli.recipe.references import REFERENCES
from topiclora_cli.reporting.formats import measure, measured, metric_name
from topiclora_cli.reporting.found import exports
from topiclora_cli.reporting.markdown import section_markdown
from topiclora_cli.reporting.material import Material, read_material
from topiclora_cli.reporting.scored import routing
from topiclora_cli.reporting.scores import mean_metric, task_metric
from topiclora_cli.reporting.sections import Section, Text
from topiclora_cli.reporting.table import Cell, Table, columns, facts, row
from topiclora_cli.runs.results.evaluation import Compared, EvalSummary
from topiclora_cli.runs.run import RunDir

NORMAL_95 = 1.96  # standard errors on each side


def card_sections(run: RunDir, *, export: str | None, parameters: int | None) -> str:
    """The card's further sections in Markdown.

    export: the name of the export that is published, None of the adapter itself. parameters: what the adapter's file
    holds, for a run that was not trained here.
    """
    material = read_material([run])[0]
    whose = "" if export is None else "These are the routed adapter's, which this export stands in for. "
    gaps = {name: gap for name, gap in material.exports.items() if name == export}
    found = [
        _method(material, parameters),
        *(_scores(name, summary, whose) for name, summary in material.evaluations.items()),
        *_topics(material),
        *exports([replace(material, exports=gaps)]),
    ]
    return "\n".join(section_markdown(section) for section in found if section)


def eval_results(run: RunDir, export: str | None) -> list[EvalResult]:
    """Scores for the card's metadata: the adapter's, of each task and metric the latest, or those of an export that was
    scored when it was made."""
    material = read_material([run])[0]
    if export is not None:
        scored = material.exports[export].tasks if export in material.exports else ()
        values = [(each.task, each.metric, each.export, each.base) for each in scored]
        return [_result(task, metric, value, base=base) for task, metric, value, base in values if value is not None]
    latest = {}
    for summary in material.evaluations.values():
        for task in summary.tasks:
            low, high = _interval(task)
            said = {"standard_error": task.tuned_stderr, "low_95": low, "high_95": high, "base": task.base}
            result = _result(task.task, metric_name(task), task.tuned, questions=task.count, **said)
            latest[task.task, task.metric] = result
    return list(latest.values())


def _result(task: str, metric: str, value: float, **said: float | None) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=task,
        dataset_name=task,
        metric_type=metric.partition(" ")[0],
        metric_name=metric,
        metric_value=value,
        metric_args={key: each for key, each in said.items() if each is not None},
    )


def _method(run: Material, parameters: int | None) -> Section:
    values: list[tuple[str, str]] = []
    if run.recipe is not None:
        adapter = run.recipe.adapter
        values.append(("method", adapter.method))
        if reference := REFERENCES.get(adapter.method):
            values.append(("after", reference.paper))
        values.append(("seed", str(run.recipe.seed)))
    if trained := run.training:
        total, each = trained.total_parameters, trained.activated_parameters
        values += [
            ("trained parameters", f"{total:,}"),
            ("of which a token meets", f"{each:,}"),
            ("steps, examples", f"{trained.steps:,}, {trained.examples:,}"),
            ("data", ", ".join(Path(source.label).name for source in trained.data) or "-"),
        ]
    elif parameters is not None:
        values.append(("parameters", f"{parameters:,}, imported and not trained here"))
    if (record := run.stage("train")) and record.seconds is not None:
        values.append(("training, seconds", f"{record.seconds:,.0f}"))
    return Section("Method and budget", [facts("", values)])


def _scores(name: str, summary: EvalSummary, whose: str) -> Section:
    rows = [
        [Cell(task.task, indent=task.depth), *row(task_metric(task), f"{task.count:,}", *_figures(task))]
        for task in summary.tasks
    ]
    if summary.mean and len(summary.mean.of) > 1:
        label = f"mean of {len(summary.mean.of)}"
        rows.append(row(label, mean_metric(summary.mean, summary), "", *_figures(summary.mean), strong=True))
    heads = columns("task", "metric", "n", "base", "tuned", "95 % interval", "difference", right=2)
    about = Text(f"{whose}By lm-evaluation-harness; difference ± its standard error.")
    return Section(f"Scores ({name})", [about, Table("", heads, rows)])


def _figures(scores: Compared) -> Sequence[str]:
    low, high = _interval(scores)
    between = "-" if low is None else f"{measure(low, scores.unit)} to {measure(high, scores.unit)}"
    tuned, base = measure(scores.tuned, scores.unit), measure(scores.base, scores.unit)
    return base, tuned, between, measured(scores, "delta")


def _interval(scores: Compared) -> tuple[float | None, float | None]:
    """Of a share Wilson's interval (1927), which is none of width 0 where all or no answers are right."""
    error, share = scores.tuned_stderr, scores.tuned
    if error is None:
        return None, None
    if scores.unit != "share":
        return share - NORMAL_95 * error, share + NORMAL_95 * error
    count = share * (1 - share) / error**2 if error else getattr(scores, "count", None)
    if not count:
        return None, None
    squared = NORMAL_95**2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + squared / (4 * count**2)) / (1 + squared / count)
    return middle - half, middle + half


def _topics(run: Material) -> list[Section]:
    """Which topics each expert got, and where prompts of a topic went in the latest evaluation."""
    routed = [section for name in [*run.evaluations][-1:] if (section := routing([run], name))]
    if run.graph is None:
        return routed
    rows = [row(str(expert), ", ".join(names) or "none") for expert, names in run.graph.topics_by_expert.items()]
    about = Text(
        f"The router starts from {run.graph.topics:,} topics, of which each expert has those it is likeliest for."
    )
    return [Section("Topics and experts", [about, Table("", columns("expert", "topics"), rows)]), *routed]
