"""Of a report: scores with their intervals, and routing by topic."""

from collections.abc import Sequence

from topiclora_cli.reporting.beside import beside, grouped, ordered
from topiclora_cli.reporting.by_entropy import ABOUT as ABOUT_ENTROPY
from topiclora_cli.reporting.by_entropy import by_entropy_tables
from topiclora_cli.reporting.by_topic import ABOUT, by_topic_tables
from topiclora_cli.reporting.formats import Figure, measured, percent
from topiclora_cli.reporting.material import Material
from topiclora_cli.reporting.scores import SCORES, eval_table, mean_metric, task_metric
from topiclora_cli.reporting.sections import Estimate, Intervals, Part, Section, Text
from topiclora_cli.reporting.table import Cell, Column, Table, columns, row
from topiclora_cli.runs.results.evaluation import Compared, EvalSummary, RoutingReport

_Column = tuple[str, EvalSummary, Figure]  # a heading, and what stands below it of an evaluation


def scores(runs: Sequence[Material]) -> list[Section]:
    """Each evaluation's scores and the routing that it saw; those of one name stand side by side."""
    sections = []
    for name in ordered(name for run in runs for name in run.evaluations):
        found = [(run, run.evaluations[name]) for run in runs if name in run.evaluations]
        summaries = [summary for _, summary in found]
        table = (
            eval_table(summaries[0], title="")
            if len(runs) == 1
            else _of_several([run.label for run, _ in found], summaries)
        )
        parts: list[Part] = [Text(f"{SCORES}."), table]
        parts += [
            Text(f"{f'{run.label}: ' if len(runs) > 1 else ''}not scored: {task} ({reason}).")
            for run, summary in found
            for task, reason in summary.failed.items()
        ]
        parts += [Text(note) for note in ordered(note for _, summary in found for note in summary.notes)]
        parts += _intervals({run.label: summary for run, summary in found}, single=len(runs) == 1)
        for run, summary in found:
            if tables := by_topic_tables(summary.by_topic):
                parts += [Text(f"{f'{run.label}: ' if len(runs) > 1 else ''}{ABOUT}"), *tables]
            if tables := by_entropy_tables(summary.by_entropy):
                parts += [Text(f"{f'{run.label}: ' if len(runs) > 1 else ''}{ABOUT_ENTROPY}"), *tables]
        if len(found) > 1:
            parts.append(Text("Whether a difference is more than chance is said by `topiclora compare`."))
        sections.append(Section(f"Evaluation `{name}`", parts))
        if routed := routing(runs, name):
            sections.append(routed)
    return sections


def _of_several(labels: Sequence[str], summaries: Sequence[EvalSummary]) -> Table:
    tuned: list[_Column] = [(label, each, "tuned") for label, each in zip(labels, summaries, strict=True)]
    bases: list[_Column] = [
        (f"base of {label}", each, "base") for label, each, _ in tuned if any(t.base is not None for t in each.tasks)
    ]
    # Runs of one base have measured the same; else each stands beside its own.
    if bases and len({tuple((task.task, task.base) for task in each.tasks) for _, each, _ in bases}) == 1:
        bases = [("base", bases[0][1], "base")]
    shown = [*bases, *tuned]
    heads = [
        *columns("task", "metric"),
        *(Column(label, "right") for label in ("n", *(label for label, _, _ in shown))),
    ]
    by_name = {id(summary): {task.task: task for task in summary.tasks} for summary in summaries}
    rows = []
    for name in ordered(task.task for summary in summaries for task in summary.tasks):
        some = next(tasks[name] for tasks in by_name.values() if name in tasks)
        figures = (_figure(by_name[id(each)].get(name), kind) for _, each, kind in shown)
        counts = ordered(f"{tasks[name].count:,}" for tasks in by_name.values() if name in tasks)
        rows.append([Cell(name, indent=some.depth), *row(task_metric(some), ", ".join(counts), *figures)])
    of = {each.mean.of if each.mean else () for each in summaries}
    if len(of) == 1 and (mean := summaries[0].mean) and len(mean.of) > 1:
        figures = (_figure(each.mean, kind) for _, each, kind in shown)
        rows.append(row(f"mean of {len(mean.of)}", mean_metric(mean, summaries[0]), "", *figures, strong=True))
    return Table("", heads, rows)


def _figure(scores: Compared | None, kind: Figure) -> str:
    return "-" if scores is None else measured(scores, kind)


def _intervals(found: dict[str, EvalSummary], *, single: bool) -> list[Intervals]:
    """The tasks of the commonest unit, with the mean."""
    units = [task.unit for summary in found.values() for task in summary.tasks]
    if not units:
        return []
    unit = max(ordered(units), key=units.count)
    rows: dict[str, dict[str, Estimate]] = {}
    for label, summary in found.items():
        each: list[tuple[str, Compared]] = [(task.task, task) for task in summary.tasks]
        if summary.mean and len(summary.mean.of) > 1:
            each.append((f"mean of {len(summary.mean.of)}", summary.mean))
        for name, scores in each:
            if scores.unit == unit:
                series = {"base": (scores.base, scores.base_stderr)} if single and scores.base is not None else {}
                series["tuned" if single else label] = (scores.tuned, scores.tuned_stderr)
                rows.setdefault(name, {}).update({k: Estimate(v, e) for k, (v, e) in series.items() if v is not None})
    return [Intervals("Scores with 95 % intervals", unit, rows)]


def routing(runs: Sequence[Material], name: str) -> Section | None:
    """Where prompts of each topic went, as an evaluation saw it."""
    facts = beside(runs, lambda run: _routed(_report(run, name)))
    if facts is None:
        return None
    reports = [report for run in runs if (report := _report(run, name))]
    parts: list[Part] = [facts, Text(f"Mean gates in percent, of {reports[0].on}.")]
    return Section("Routing by topic", [*parts, *grouped(runs, lambda run: _gates(_report(run, name)))])


def _report(run: Material, name: str) -> RoutingReport | None:
    summary = run.evaluations.get(name)
    return summary.routing if summary else None


def _routed(report: RoutingReport | None) -> dict[str, str]:
    if report is None:
        return {}
    experts = len(next(iter(report.by_topic.values())))
    return {
        "experts in use over all layers": f"{report.experts_in_use:.2f} of {experts}",
        "mutual information of topic and expert, nats": f"{report.mutual_information:.3f}",
        "largest load, %": percent(report.largest_load),
    }


def _gates(report: RoutingReport | None) -> Table | None:
    if report is None:
        return None
    most = max(max(gates) for gates in report.by_topic.values()) or 1
    experts = len(next(iter(report.by_topic.values())))
    rows = [
        [Cell(topic), *(Cell(f"{100 * gate:.0f}", shade=gate / most) for gate in gates)]
        for topic, gates in report.by_topic.items()
    ]
    return Table("", columns("topic", *map(str, range(experts)), right=1), rows)
