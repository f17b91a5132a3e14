"""Of a report: what came of the topic graph, the training and the exports."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from topiclora_cli.reporting.beside import beside, grouped, ordered
from topiclora_cli.reporting.exports import export_tables
from topiclora_cli.reporting.formats import contender, measure, metric_label, number, percent, spread
from topiclora_cli.reporting.material import Material
from topiclora_cli.reporting.sections import Curves, Part, Picture, Section, Text
from topiclora_cli.reporting.sources import sources_table
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.ablation import GridScores
from topiclora_cli.runs.results.graph import GraphReport

_MEASURES = {
    "loss_lm": "language-model loss",
    "eval_loss": "loss of held-out examples",
    "loss_kl": "KL to the prior",
    "eval_kl": "KL of held-out examples",
    "effective_experts": "effective experts of a router",
    "largest_load": "largest load",
    "routing_entropy": "routing entropy",
    "grad_norm": "norm of the gradient",
}


def data(runs: Sequence[Material]) -> Section | None:
    """What was read of each source, and what became of it."""
    tables = grouped(runs, lambda run: sources_table(run.training.data) if run.training and run.training.data else None)
    return Section("Data", tables) if tables else None


def graph(runs: Sequence[Material]) -> Section | None:
    """The graphs in numbers, who got which topics, and what an assignment has to beat."""
    facts = beside(runs, lambda run: _graph(run.graph) if run.graph else {})
    if facts is None:
        return None
    parts: list[Part] = [Text(run.graph.choice.reason) for run in runs if run.graph and run.graph.choice]
    parts += [facts, *_pictures(runs), *grouped(runs, lambda run: _topics(run.graph) if run.graph else None)]
    if len(runs) == 1 and (runs[0].path / "graph" / "report.html").is_file():
        parts.append(Text("Tooltips and more are in the run's `graph/report.html`."))
    compared = grouped(runs, lambda run: _compared(run.graph) if run.graph else None)
    if compared:
        parts.append(
            Text(
                "Beside the controls: mean and range over seeds of the modularity on the true graph, of the smallest "
                "angle between experts in degrees, of the entropy of the assignment, and of the adjusted Rand index "
                "between seeds."
            )
        )
    return Section("Topics to experts", [*parts, *compared])


def _graph(report: GraphReport) -> dict[str, str]:
    facts = {"topics, edges, experts": f"{report.topics:,}, {report.edges:,}, {report.experts}"}
    if report.shape:
        facts["density, components"] = f"{report.shape.density:.3f}, {report.shape.components}"
    facts["experts without a topic"] = ", ".join(map(str, report.dead_experts)) or "none"
    facts["modularity"] = number(report.assignment.modularity)
    cosine = report.separation
    facts["cosine between expert vectors"] = f"{cosine.min_cosine:.2f} to {cosine.max_cosine:.2f}"
    facts["smallest angle between them"] = f"{cosine.min_angle:.1f}°, of at most {cosine.simplex_angle:.1f}°"
    if report.links:
        hidden = f"hidden edges from unlinked pairs with AUC ({report.links.hidden} edges)"
        facts[f"topic vectors tell {hidden}"] = f"{report.links.auc:.3f}; texts alone {report.links.text_auc:.3f}"
    if told := report.attribution:
        facts["topics told from prompts, mAP"] = f"{told.seen:.3f}; of kinds never seen {number(told.unseen)}"
    return facts


def _pictures(runs: Sequence[Material]) -> list[Picture]:
    """Each different picture of a graph once."""
    seen: dict[bytes, Picture] = {}
    for run in runs:
        path = run.path / "graph" / "graph.png"
        if run.graph and path.is_file():
            whose = f" of {run.label}" if len(runs) > 1 else ""
            seen.setdefault(path.read_bytes(), _picture(path, f"Topic graph{whose}"))
    return list(seen.values())


def _picture(path: Path, alt: str) -> Picture:
    return Picture(path, alt, f"{path.parent.name}/{path.name}")


def _topics(report: GraphReport) -> Table:
    rows = [row(str(expert), ", ".join(names) or "none") for expert, names in report.topics_by_expert.items()]
    return Table("", columns("expert", "topics"), rows)


def _compared(report: GraphReport) -> Table | None:
    if report.comparison is None:
        return None
    heads = columns("assignment", "modularity", "smallest angle", "entropy", "stability", right=1)
    rows = []
    for each in report.comparison.contenders:
        values = ((each.modularity, 3), (each.min_angle, 1), (each.entropy, 3), (each.stability, 2))
        spreads = (spread(value, digits) for value, digits in values)
        rows.append(row(contender(each), *spreads, strong=each.own))
    return Table("", heads, rows)


def training(runs: Sequence[Material]) -> Section | None:
    """Steps, parameters, the losses of the last step, alarms and curves."""
    facts = beside(runs, _training)
    curves = _curves(runs)
    if facts is None and not curves:
        return None
    alarms = [
        Text(f"{f'{run.label}: ' if len(runs) > 1 else ''}Alarm: {text}")
        for run in runs
        for text in (run.training.alarms if run.training else ())
    ]
    return Section("Training", [*curves, *alarms, *([facts] if facts else [])])


def _training(run: Material) -> dict[str, str]:
    found = run.training
    if found is None:
        return {}
    facts = {"steps": f"{found.steps:,}", "examples": f"{found.examples:,}"}
    for name, value in found.final.items():
        if name == "loss" or name.startswith("loss_"):
            facts[f"{name.replace('_', ' ')}, last step"] = f"{value:.4f}"
    for name in ("eval_loss", "eval_kl"):
        if found.best and name in found.best:
            facts[f"{name.replace('_', ' ')}, best"] = f"{found.best[name]:.4f}"
    return facts


def _curves(runs: Sequence[Material]) -> list[Curves]:
    curves = []
    alarms = sorted({row.step for run in runs for row in run.metrics if row.alarms})
    for name, title in _MEASURES.items():
        lines = {
            run.label: [(float(row.step), float(row.values[name])) for row in run.metrics if name in row.values]
            for run in runs
        }
        lines = {label: points for label, points in lines.items() if len(points) > 1}
        if lines:
            curves.append(Curves(title, lines, alarms if len(runs) == 1 else ()))
    return curves


def exports(runs: Sequence[Material]) -> list[Section]:
    """How far each export is from the routed model."""
    names = ordered(name for run in runs for name in run.exports)
    gates = {name: next(run.exports[name].gates for run in runs if name in run.exports) for name in names}
    found = ((name, beside(runs, partial(_export, name=name))) for name in names)
    return [
        Section(f"Export `{name}` with fixed gates ({gates[name]})", [table, *_parts_of(runs, name)])
        for name, table in found
        if table
    ]


def _parts_of(runs: Sequence[Material], name: str) -> list[Table]:
    return [table for run in runs if name in run.exports for table in export_tables(run.exports[name])]


def _export(run: Material, name: str) -> dict[str, str]:
    export = run.exports.get(name)
    if export is None:
        return {}
    tokens = f"{percent(export.agreement)} % of {export.tokens:,} answer tokens"
    return {
        "KL(routed || export), nats per answer token": f"{export.kl:.4f}",
        "same top token": tokens,
        "measured on": export.on,
    }


def ablation(runs: Sequence[Material]) -> list[Section]:
    """The cells of each grid."""
    found = [(run, run.grid) for run in runs if run.grid and run.grid.cells]
    return [Section(_grid_title(run, grid, several=len(runs) > 1), [_cells(grid)]) for run, grid in found]


def _grid_title(run: Material, grid: GridScores, *, several: bool) -> str:
    label = metric_label(grid.cells[0].metric, grid.cells[0])
    return f"Ablation{f' of {run.label}' if several else ''}: {label}"


def _cells(grid: GridScores) -> Table:
    rows = [
        row(
            cell.name,
            cell.seeds,
            measure(cell.mean, cell.unit),
            measure(cell.deviation, cell.unit),
            measure(cell.against_full, cell.unit, signed=True),
            number(cell.kl),
            number(cell.mutual_information),
        )
        for cell in grid.cells
    ]
    return Table("", columns("cell", "seeds", "score", "deviation", "vs full", "KL", "MI", right=1), rows)
