"""Results as tables for the terminal."""

from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from topiclora_cli.recipe import FULL
from topiclora_cli.reporting.drawn import as_rich
from topiclora_cli.reporting.formats import contender, percent
from topiclora_cli.reporting.grids.scores import cells_table
from topiclora_cli.runs.machine import GIB
from topiclora_cli.runs.results.ablation import CellScore, GridScores
from topiclora_cli.runs.results.evaluation import RoutingReport
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.graph import AttributionReport, Comparison, GraphReport, Spread
from topiclora_cli.runs.results.route import GateView, PromptRoute, TopicView
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.training.needs import Needs

MAX_TOPIC_ROWS = 16
SHADES = (("  ", "dim"), ("░░", "blue"), ("▒▒", "cyan"), ("▓▓", "green"), ("██", "bold yellow"))
_CELL, _MARGIN = 8, 8  # columns of a terminal that one gate takes, and the names of the layers before it


def graph_tables(report: GraphReport) -> list[Table]:
    """Topics by expert, the graph in numbers, and the assignment beside what it has to beat, where compared."""
    experts = Table("expert", "topics", title="Topics by expert", title_justify="left", box=None)
    for expert, names in report.topics_by_expert.items():
        experts.add_row(str(expert), ", ".join(names))
    facts = Table(title="Graph", title_justify="left", box=None, show_header=False)
    facts.add_row("topics, edges, experts", f"{report.topics:,}, {report.edges:,}, {report.experts}")
    # A run made by an earlier version lacks what its report did not have.
    if shape := report.shape:
        facts.add_row(
            "density, mean and largest degree", f"{shape.density:.3f}, {shape.mean_degree:.1f}, {shape.max_degree}"
        )
        facts.add_row("components, topics without a tie", f"{shape.components:,}, {len(shape.isolated):,}")
        facts.add_row("experts without a topic", ", ".join(map(str, report.dead_experts)) or "none")
    for key, value in asdict(report.separation).items():
        facts.add_row(f"expert vectors: {key.replace('_', ' ')}", f"{value:.3f}")
    facts.add_row("modularity", f"{report.assignment.modularity:.3f}")
    if links := report.links:
        facts.add_row("AUC of hidden edges", f"{links.auc:.3f} (texts alone {links.text_auc:.3f})")
    if report.attribution:
        facts.add_row("topics told from prompts, mAP", _attribution(report.attribution))
    return [experts, facts, *([comparison_table(report.comparison)] if report.comparison else [])]


def _attribution(found: AttributionReport) -> str:
    if found.unseen is None:
        return f"{found.seen:.3f}"
    without = f"no graph {found.no_graph:.3f}, frequency {found.frequency:.3f}"
    return f"{found.seen:.3f}; of kinds never seen {found.unseen:.3f} ({without})"


def comparison_table(comparison: Comparison) -> Table:
    """Every setting that the assignment has to beat, over several seeds; the recipe's own in bold."""
    seeds = len(comparison.seeds)
    title = f"Beside the controls, {f'mean ± half the range of {seeds} seeds' if seeds > 1 else 'one seed'}"
    columns = ("assignment", "information", "modularity", "angle", "stability")
    table = Table(*columns, title=title, title_justify="left", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison.contenders:
        cells = [
            _spread(row.information, 3),
            _spread(row.modularity, 3),
            _spread(row.min_angle, 1),
            _spread(row.stability, 2),
        ]
        table.add_row(contender(row), *cells, style="bold" if row.own else None)
    return table


def train_table(result: TrainResult) -> Table:
    """Steps, parameters and the losses of the last step."""
    table = Table(title="Training", title_justify="left", box=None, show_header=False)
    table.add_row("steps, examples", f"{result.steps:,}, {result.examples:,}")
    table.add_row("trainable parameters", f"{result.total_parameters:,}")
    table.add_row("activated per token", f"{result.activated_parameters:,}")
    for name in ("loss", "loss_lm", "loss_kl", "routing_entropy"):
        if name in result.final:
            table.add_row(name.replace("_", " "), f"{result.final[name]:.4f}")
    return table


def needs_table(needs: Needs, name: str) -> Table:
    """What a training would need, by `topiclora train --dry-run`; memory is that of one process on a GPU."""
    title = f"Needs of {name} (memory: estimate for a GPU, GiB a process)"
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    data, batch, memory = needs.data, needs.batch, needs.memory
    table.add_row("base parameters", f"{needs.base_parameters:,} ({needs.dtype})")
    if needs.base_activated != needs.base_parameters:
        table.add_row("activated per token", f"{needs.base_activated:,}")
    table.add_row("trainable, activated", f"{needs.trained:,}, {needs.activated:,}")
    table.add_row("widest micro-batch", f"{batch.examples:,} x {batch.width:,} tokens, {batch.labelled:,} with logits")
    parts = {
        "base weights": memory.base,
        "adapter": memory.adapter,
        "gradients": memory.gradients,
        "optimizer state": memory.optimizer,
        "activations": memory.activations,
        "logits, or a layer's gradients": memory.logits_or_work,
    }
    for part, size in parts.items():
        table.add_row(part, f"{size / GIB:.2f}")
    table.add_row("in all", f"{memory.total / GIB:.2f}", style="bold")
    table.add_row("examples", f"{data.examples:,}" if data.examples else "unknown")
    table.add_row("tokens per epoch", f"{data.tokens:,}" if data.tokens else "unknown")
    if data.unknown:
        table.add_row("", Text(data.unknown))
    table.add_row("steps", f"{needs.steps:,}" if needs.steps else "unknown")
    table.add_row("checkpoints on disk", f"{needs.disk / GIB:.2f} GiB")
    if needs.measured is not None and needs.hours is not None:
        seen = needs.measured
        speed = f"{seen.tokens_per_second:.0f} tokens/s, {seen.step_seconds:.1f} s a step, peak {seen.peak_gib:.1f} GiB"
        table.add_row(f"{seen.steps} real steps on this {seen.device}", speed)
        table.add_row(
            "all steps at that rate", f"{needs.hours:.1f} h" if needs.hours >= 1 else f"{60 * needs.hours:.0f} min"
        )
    return table


def routing_table(routing: RoutingReport) -> Table:
    """Mean gate of every expert by topic, the largest of each row in bold."""
    by_topic = routing.by_topic
    experts = len(next(iter(by_topic.values())))
    title = (
        f"Routing by topic, gates in % ({routing.experts_in_use:.1f} of {experts} experts in use over all layers, "
        f"mutual information {routing.mutual_information:.2f} nats; {routing.on})"
    )
    table = Table("topic", *(str(e) for e in range(experts)), title=title, title_justify="left", box=None)
    for topic, gates in list(by_topic.items())[:MAX_TOPIC_ROWS]:
        top = max(gates)
        table.add_row(topic, *(Text(f"{100 * g:.0f}", style="bold" if g == top else "") for g in gates))
    for column in table.columns[1:]:
        column.justify = "right"
    if (left := len(by_topic) - MAX_TOPIC_ROWS) > 0:
        table.caption, table.caption_justify = f"and {left} more topics: see report.md", "left"
    return table


def merge_table(export: Export) -> Table:
    """How far an export is from the routed model."""
    title = "Export that routes" if export.gates == "routed" else f"Export with fixed gates ({export.gates})"
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    table.add_row("KL(routed || export)", f"{export.kl:.4f} nats per answer token")
    table.add_row("same top token", f"{100 * export.agreement:.1f} % of {export.tokens:,} answer tokens")
    table.add_row("measured on", Text(f"{export.measured:,} {export.on}"))
    if export.calibration:
        table.add_row("gates from", f"{export.calibration:,} training examples")
    if export.rank:
        table.add_row("rank", str(export.rank))
    return table


def ablation_table(scores: Sequence[CellScore], reference: str = FULL) -> as_rich:
    """Cells by score, beside the one that they are compared with."""
    return as_rich(cells_table(GridScores(tuple(scores), reference)))


def topics_table(view: TopicView) -> Table:
    """The topics a prompt is about, with their relevance."""
    table = Table("topic", "relevance", title="Topics of the prompt", title_justify="left", box=None)
    table.columns[1].justify = "right"
    for score in view.topics:
        table.add_row(score.topic, f"{score.relevance:.2f}")
    return table


def experts_table(result: PromptRoute) -> Table:
    """Each expert's prior beside its mean gate, as far as the run has them, and its leading topics."""
    view, gates = result.topics, result.gates
    sure = f"Experts (confidence of the prior {view.confidence:.2f})" if view else "Experts"
    columns = ["expert", *(["prior %"] if view else []), *(["gates %"] if gates else [])]
    table = Table(*columns, *(["topics"] if view else []), title=sure, title_justify="left", box=None)
    for column in table.columns[: len(columns)]:
        column.justify = "right"
    # Beside an adapter trained without topics a graph may have another number of experts.
    for expert in range(max(len(view.prior) if view else 0, len(gates.mean) if gates else 0)):
        shares = [part for part in (view and view.prior, gates and gates.mean) if part]
        cells = [percent(part[expert] if expert < len(part) else None) for part in shares]
        names = [", ".join(view.experts[expert]) if expert < len(view.experts) else "-"] if view else []
        table.add_row(str(expert), *cells, *names)
    return table


def gate_tables(view: GateView, *, width: int) -> list[Table]:
    """Gates by layer and expert as a heat map, shaded up to the largest; in parts where they are too many for `width`.

    Every shade stands beside its number, so that it needs neither colour nor a legend.
    """
    experts = max(len(row.mean) for row in view.layers)
    largest = max(max(row.mean) for row in view.layers)
    rows = [("-" if row.layer is None else str(row.layer), row.mean) for row in view.layers]
    at_once = max(1, (width - _MARGIN) // _CELL)
    tables = []
    for start in range(0, experts, at_once):
        part = range(start, min(start + at_once, experts))
        title = f"Gates by layer in %, over {view.tokens} tokens" if start == 0 else None
        table = Table("layer", title=title, title_justify="left", box=None)
        for expert in part:
            table.add_column(str(expert), justify="right", no_wrap=True)
        for name, gates in rows:
            table.add_row(name, *(_shaded(gates[e], largest) if e < len(gates) else "" for e in part))
        tables.append(table)
    return tables


def _spread(value: Spread | None, digits: int) -> str:
    """Short enough for four of them on a line of 80 columns."""
    if value is None:
        return "-"
    half = (value.high - value.low) / 2
    return f"{value.mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half else "")


def _shaded(gate: float, largest: float) -> Text:
    shade, style = SHADES[round(gate / largest * (len(SHADES) - 1))]
    return Text(f"{shade} {100 * gate:3.0f}", style=style)
