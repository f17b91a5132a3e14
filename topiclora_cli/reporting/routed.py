"""Of a report: what the routers did layer by layer, and what was lost where they were interfered with."""

from collections.abc import Sequence

from topiclora_cli.reporting.changes import NAMES, change, clear, measured_names, of_changes
from topiclora_cli.reporting.formats import number, percent
from topiclora_cli.reporting.material import Material
from topiclora_cli.reporting.sections import Part, Section, Text
from topiclora_cli.reporting.table import Cell, Column, Table, columns, row
from topiclora_cli.runs.results.interval import FEWEST
from topiclora_cli.runs.results.routing import LayerRouting, RoutingStudy, TokenGates

_MEASURES = (
    "Entropy is that of one token's gates over its most, ln E. Experts per token are 1 / sum g² of its gates g, "
    "effective experts of a router 1 / sum p² of its load p over all tokens; load variation is the deviation of loads "
    "over their mean. Mutual information of topic and expert is less what chance gives, by permuting the examples' "
    "topics, with the p-value of that test. Cosine is of two experts' weights BA, CKA (linear) of their outputs on the "
    "same tokens, mean and largest over pairs. Agreement with the prior is the share of examples whose likeliest "
    "expert is the prior's, and the Jensen-Shannon divergence of gates and prior in nats."
)
_RULE = (
    "An expert that is off leaves the choice: the next best takes its slot, and the gates are made of those chosen, as "
    "if it had never been there. Uniform gives every expert the mean of the token's gates, shuffled gives each "
    "router's gates to other experts, prior puts the topic graph's prior of the prompt in the router's place. Changes "
    "are means over the same questions with 95 % intervals; strong where that leaves out 0."
)


def routing_studies(runs: Sequence[Material]) -> list[Section]:
    """A section for the routing of each evaluation that studied it, and one for its interference."""
    sections = []
    for run in runs:
        whose = f", {run.label}" if len(runs) > 1 else ""
        for name, study in run.routing.items():
            sections.append(Section(f"Routing layer by layer, `{name}`{whose}", _layers(study)))
            if study.interfered or study.left_out:
                sections.append(Section(f"Routing interfered with, `{name}`{whose}", _interfered(study)))
    return sections


def study_tables(study: RoutingStudy) -> list[Table]:
    """What fits on a screen: the layers, and the changes by what was done to the routing."""
    return [_layer_table(study), *([_by_way(study)] if study.interfered else [])]


def _layers(study: RoutingStudy) -> list[Part]:
    parts: list[Part] = [Text(f"Of {study.examples:,} {study.on}. {_MEASURES}"), _layer_table(study)]
    parts.append(_heat("Load by layer, %", "layer", [(_named(each), each.load) for each in study.layers]))
    parts += [
        _heat(title, "expert", [(str(expert), line) for expert, line in enumerate(matrix)])
        for title, matrix in (
            ("Cosine of experts' weights x 100, mean over modules", study.cosine),
            ("CKA of experts' outputs x 100, mean over modules", study.cka),
        )
        if matrix
    ]
    parts += [
        _along(f"Gates along a text, %, mean over layers ({at + 1})", text) for at, text in enumerate(study.texts[:1])
    ]
    return parts


def _layer_table(study: RoutingStudy) -> Table:
    heads = columns(
        *("layer", "entropy, %", "experts per token", "effective experts of a router", "load variation"),
        *("mutual information, nats", "p", "cosine", "CKA", "agrees with prior, %", "from prior, nats"),
        right=1,
    )
    rows = [_layer_row(_named(each), each) for each in study.layers]
    return Table("", heads, [*rows, _layer_row("all", study.together, strong=True)])


def _layer_row(name: str, each: LayerRouting, *, strong: bool = False) -> list[Cell]:
    pairs = ("-" if pair is None else f"{pair[0]:.2f}, {pair[1]:.2f}" for pair in (each.cosine, each.cka))
    return row(
        name,
        percent(each.token_entropy),
        f"{each.experts_per_token:.2f}",
        f"{each.effective_experts:.2f} of {each.experts}",
        f"{each.load_variation:.2f}",
        f"{each.information - each.by_chance:+.3f}",
        f"{each.p:.3f}",
        *pairs,
        percent(each.agrees),
        number(each.from_prior),
        strong=strong,
    )


def _named(each: LayerRouting) -> str:
    return "-" if each.layer is None else str(each.layer)


def _heat(title: str, head: str, lines: Sequence[tuple[str, Sequence[float]]]) -> Table:
    """Numbers x 100 by expert, shaded up to the largest; a row of fewer experts ends early."""
    experts = max(len(values) for _, values in lines)
    most = max((abs(value) for _, values in lines for value in values), default=0.0) or 1.0
    rows = [
        [Cell(name), *(_shaded(values[e], most) if e < len(values) else Cell("") for e in range(experts))]
        for name, values in lines
    ]
    return Table(title, columns(head, *map(str, range(experts)), right=1), rows)


def _shaded(value: float, most: float) -> Cell:
    return Cell(f"{100 * value:.0f}", shade=max(0.0, value) / most)


def _along(title: str, text: Sequence[TokenGates]) -> Table:
    lines = [(f"{'→ ' if each.written else ''}{_visible(each.token)}", each.gates) for each in text]
    table = _heat(title, "token", lines)
    return Table(title, table.columns, table.rows, "→ is what the model has written.")


def _visible(token: str) -> str:
    return token.replace("\n", "⏎").strip() or "·"


def _interfered(study: RoutingStudy) -> list[Part]:
    parts: list[Part] = [Text(text) for text in study.left_out]
    if not study.interfered:
        return parts
    first = study.interfered[0].changes
    measures = measured_names(first.before)
    before = ", ".join(
        f"{NAMES[m]} {100 * first.before[m]:.1f}" if m == "score" else f"{NAMES[m]} {first.before[m]:.3f}"
        for m in measures
    )
    parts = [
        Text(f"{study.questions:,} questions; as the router has it: {before}. {_RULE}"),
        _by_way(study),
        *parts,
    ]
    off = [each for each in study.interfered if each.expert is not None]
    if any(each.apart for each in off):
        heads = columns("expert off", "questions of its topics", "questions of others'", "difference", right=1)
        own = [row(str(each.expert), *map(change, (each.own, each.others, each.apart))) for each in off]
        title = f"Change of the answer loss on an expert's own topics, by {study.owners}, and on others'"
        parts.append(Table(title, heads, own))
    if off:
        parts.append(_by_topic(study))
    return parts


def _by_way(study: RoutingStudy) -> Table:
    measures = measured_names(study.interfered[0].changes.before)
    rows = [row(each.way, *of_changes(each.changes, measures)) for each in study.interfered]
    return Table("Change by what is done to the routing", columns("", *(NAMES[m] for m in measures), right=1), rows)


def _by_topic(study: RoutingStudy) -> Table:
    """Topics by experts: the change of the answer loss without that expert."""
    off = [each for each in study.interfered if each.expert is not None]
    topics = list(off[0].by_topic)
    found = {
        (topic, e): each.by_topic[topic].change.get("answer_loss") for e, each in enumerate(off) for topic in topics
    }
    most = max((interval.mean for interval in found.values() if interval), default=0.0)
    rows = []
    for topic in topics:
        cells, enough = [], off[0].by_topic[topic].count >= FEWEST
        for e in range(len(off)):
            interval = found[topic, e]
            shade = max(0.0, interval.mean) / most if interval and most > 0 else 0.0
            text = f"{interval.mean:+.2f}" if interval else "-"
            cells.append(Cell(text, strong=bool(interval and clear(interval) and enough), shade=shade))
        rows.append([*row(topic, f"{off[0].by_topic[topic].count:,}"), *cells])
    heads = [Column("topic"), Column("n", "right"), *(Column(str(each.expert), "right") for each in off)]
    chance = round(0.05 * len(topics) * len(off))
    note = (
        f"Strong: the interval of {FEWEST} questions or more leaves out 0, as about {chance} of "
        f"{len(topics) * len(off)} would by chance. Intervals and the other measures are in topics.csv."
    )
    return Table("Change of the answer loss, nats, by topic and expert switched off", heads, rows, note)
