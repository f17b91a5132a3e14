"""A run's outcome in one Markdown file: what a reader needs without the terminal that made it."""

from typing import Any

from topiclora_cli.reporting.formats import (
    contender,
    mean_label,
    measure,
    measured,
    metric_label,
    metric_name,
    number,
    percent,
    spread,
)
from topiclora_cli.runs.files import read_json, write_text
from topiclora_cli.runs.naming import GAP, REPORT, SUMMARY, named_folders
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.graph import Comparison, GraphReport
from topiclora_cli.runs.run import RunDir


def write_report(run: RunDir) -> None:
    """Write `report.md` from the run's finished stages."""
    manifest = run.manifest
    parts = [f"# {manifest['name']}, seed {manifest['seed']}\n", _versions(manifest)]
    if run.is_done("graph"):
        parts.append(_graph(read_result(run.path / "graph" / REPORT, GraphReport)))
    if run.is_done("train"):
        parts.append(_train(run.stage("train")))
    evaluations, exports = named_folders(run.path / "eval", SUMMARY), named_folders(run.path / "merged", GAP)
    parts.extend(_eval(read_json(folder / SUMMARY, hint="Run eval again.")) for folder in evaluations)
    parts.extend(_merge(folder.name, read_result(folder / GAP, Export)) for folder in exports)
    if run.is_done("ablation"):
        parts.append(_ablation(read_json(run.path / "ablation" / "results.json", hint="Run ablate again.")))
    write_text(run.path / "report.md", "\n".join(parts))


def _versions(manifest: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items() if version)
    return f"{versions}; {manifest['platform']}, {manifest['cpus']} CPUs.\n"


def _graph(report: GraphReport) -> str:
    rows = "\n".join(f"| {e} | {', '.join(names)} |" for e, names in report.topics_by_expert.items())
    # A run made before links were reported has none, nor has one made before shape and controls were.
    links, shape, cosine = report.links, report.shape, report.separation
    known = (
        f" Topic vectors tell {links.hidden} hidden edges from unlinked pairs with AUC "
        f"{links.auc:.3f}, the texts alone with {links.text_auc:.3f}."
        if links
        else ""
    )
    why = f" {report.choice.reason}" if report.choice else ""
    form = f"density {shape.density:.3f}, {shape.components} components; " if shape else ""
    page = "Tooltips and more: [graph/report.html](graph/report.html)\n\n" if shape else ""
    return (
        f"## Topics to experts\n\n{report.topics} topics, {report.edges} edges, {report.experts} experts; "
        f"{form}modularity {report.assignment.modularity:.3f}; cosine between expert vectors "
        f"{cosine.min_cosine:.2f} to {cosine.max_cosine:.2f}, smallest angle {cosine.min_angle:.1f}° where "
        f"{cosine.simplex_angle:.1f}° is the most.{known}{why}\n\n![topic graph](graph/graph.png)\n\n{page}"
        f"| expert | topics |\n| --- | --- |\n{rows}\n{_controls(report.comparison)}"
    )


def _controls(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    rows = "\n".join(
        f"| {contender(row)} | {spread(row.modularity, 3)} | {spread(row.min_angle, 1)} "
        f"| {spread(row.entropy, 3)} | {spread(row.stability, 2)} |"
        for row in comparison.contenders
    )
    return (
        f"\nBeside the controls, mean and range over {len(comparison.seeds)} seeds: modularity on the true graph, "
        "smallest angle between experts in degrees, entropy of the assignment, and the adjusted Rand index between "
        "seeds.\n\n| assignment | modularity | smallest angle | entropy | stability |\n| --- | --- | --- | --- | --- |"
        f"\n{rows}\n"
    )


def _train(record: dict[str, Any]) -> str:
    losses = ", ".join(
        f"{k.removeprefix('loss_')} {v:.4f}" for k, v in record["final"].items() if k.startswith("loss_")
    )
    return (
        f"## Training\n\n{record['steps']} steps on {record['examples']} examples in {record['seconds']:.0f} s; "
        f"{record['total_parameters']:,} trainable parameters, {record['activated_parameters']:,} activated per token; "
        f"last step: {losses}.\n"
    )


def _eval(result: dict[str, Any]) -> str:
    lines = [f"## Evaluation `{result['name']}`\n", "Scores ± standard error; ↑ higher, ↓ lower is better.\n"]
    lines += ["| task | metric | n | base | tuned | difference |", "| --- | --- | --- | --- | --- | --- |"]
    for row in result["tasks"]:
        name = "- " * row["depth"] + row["task"]
        lines.append(_row(name, metric_label(metric_name(row), row), row["count"], row))
    if mean := result["mean"]:
        lines.append(_row(f"**mean of {len(mean['of'])}**", metric_label(mean_label(result), mean), "", mean))
    lines.append("")
    lines += [f"Not scored: {task} ({reason}).\n" for task, reason in result["failed"].items()]
    if routing := result["routing"]:
        experts = len(next(iter(routing["by_topic"].values())))
        lines.append(
            f"## Routing by topic\n\nEffective experts {routing['effective_experts']:.2f} of {experts}, mutual "
            f"information of topic and expert {routing['mutual_information']:.3f} nats, largest load "
            f"{percent(routing['largest_load'])} %. Gates in percent, of {routing.get('on', 'held-out examples')}.\n"
        )
        lines.append(
            "| topic | " + " | ".join(str(e) for e in range(experts)) + " |\n" + "| --- " * (experts + 1) + "|"
        )
        for topic, gates in routing["by_topic"].items():
            lines.append(f"| {topic} | " + " | ".join(f"{100 * gate:.0f}" for gate in gates) + " |")
        lines.append("")
    return "\n".join(lines)


def _row(name: str, metric: str, count: object, row: dict[str, Any]) -> str:
    measures = (measured(row, which) for which in ("base", "tuned", "delta"))
    return f"| {' | '.join([name, metric, str(count), *measures])} |"


def _merge(name: str, export: Export) -> str:
    return (
        f"## Export `{name}` with fixed gates ({export.gates})\n\nKL(routed || export) {export.kl:.4f} nats per "
        f"answer token; same top token in {percent(export.agreement)} %; measured on {export.on}.\n"
    )


def _ablation(scores: list[dict[str, Any]]) -> str:
    rows = "\n".join(
        f"| {s['name']} | {s['seeds']} | {measure(s['mean'], s['unit'])} "
        f"| {measure(s['against_full'], s['unit'], signed=True)} | {number(s['kl'])} |"
        for s in scores
    )
    label = metric_label(scores[0]["metric"], scores[0])
    return f"## Ablation: {label}\n\n| cell | seeds | score | vs full | KL |\n| --- | --- | --- | --- | --- |\n{rows}\n"
