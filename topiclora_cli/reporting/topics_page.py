"""The topic graph as one HTML page that needs nothing else: no network, no script, no font.

A stranger opens it from a mail; so it says what it shows, follows the reader's light or dark setting, and treats every
name in it as text.
"""

from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch
from torch.nn import functional as F

from topiclora_cli.reporting.formats import contender, spread
from topiclora_cli.reporting.topics_layout import MOST_DRAWN, by_expert, colours, positions, topic_positions
from topiclora_cli.reporting.verdicts import graph_verdicts
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.results.graph import GraphReport
from topiclora_cli.topics.store import TopicGraph

LEADING = 20  # topics of each expert in the heat map, where not all are shown
STRONGEST = 4  # ties of a topic in the table
WIDTH, HEIGHT, MARGIN = 1200, 860, 60
SETTINGS = ("gnn", "layers", "width", "separation", "control", "neighbours", "npmi_weight", "steps")


@dataclass(frozen=True)
class _Node:
    label: str
    tip: str
    colour: str
    size: float
    x: float
    y: float


@dataclass(frozen=True)
class _Line:
    tip: str
    colour: str | None  # None: between experts
    weight: float
    ends: tuple[float, float, float, float]


def write_page(graph: TopicGraph, report: GraphReport, path: str | Path, *, title: str) -> Path:
    """Write the page of a graph and its report; more than MOST_DRAWN topics are drawn as experts."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("topiclora_cli.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(spread=spread, contender=contender)
    many = graph.num_topics > MOST_DRAWN
    nodes, lines = _experts(graph) if many else _topics(graph)
    unit = F.normalize(graph.expert_vectors, dim=1)
    settings = {"encoder": graph.encoder_id, "seed": graph.seed}
    page = environment.get_template("topics_page.html.j2").render(
        title=title,
        report=report,
        settings=settings | {name: graph.config[name] for name in SETTINGS if name in graph.config},
        colours=colours(graph.num_experts),
        many=many,
        width=WIDTH,
        height=HEIGHT,
        nodes=nodes,
        lines=lines,
        topics=graph.topics,
        descriptions=graph.descriptions,
        assignment=graph.assignment.tolist(),
        rows=_rows(graph),
        owner=graph.assignment.argmax(1).tolist(),
        ties=[] if many else _strongest(graph),
        words=graph_verdicts(report),
        cosines=(unit @ unit.T).tolist(),
    )
    write_text(path, page)
    return Path(path)


def _rows(graph: TopicGraph) -> list[int]:
    """Topics of the heat map, by expert, the surest first: all, or each expert's leading ones."""
    order, owner = by_expert(graph.assignment), graph.assignment.argmax(1).tolist()
    if graph.num_topics <= MOST_DRAWN:
        return order
    kept: list[list[int]] = [[] for _ in range(graph.num_experts)]
    for topic in order:
        kept[owner[topic]].append(topic)
    return [topic for topics in kept for topic in topics[:LEADING]]


def _strongest(graph: TopicGraph) -> list[list[str]]:
    """The topics that each topic is tied to most."""
    tied: list[list[tuple[float, int]]] = [[] for _ in graph.topics]
    for (a, b), weight in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True):
        tied[a].append((weight, b))
    return [[graph.topics[b] for _, b in sorted(ties, reverse=True)[:STRONGEST]] for ties in tied]


def _topics(graph: TopicGraph) -> tuple[list[_Node], list[_Line]]:
    owner, shades = graph.assignment.argmax(1).tolist(), colours(graph.num_experts)
    degree = torch.zeros(graph.num_topics).index_add(0, graph.edge_index[0], graph.edge_weight).tolist()
    places = _on_page(topic_positions(graph))
    nodes = [
        _Node(
            label=name,
            tip=f"{name}: {graph.descriptions[t]}\n"
            + ", ".join(f"expert {e} {100 * s:.0f} %" for e, s in enumerate(graph.assignment[t].tolist()) if s >= 0.05),
            colour=shades[owner[t]],
            size=5 + 3 * degree[t] ** 0.5,
            x=places[t][0],
            y=places[t][1],
        )
        for t, name in enumerate(graph.topics)
    ]
    lines = [
        _Line(
            tip=f"{graph.topics[a]} - {graph.topics[b]}: {weight:.2f}",
            colour=shades[owner[a]] if owner[a] == owner[b] else None,
            weight=weight,
            ends=(*places[a], *places[b]),
        )
        for (a, b), weight in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True)
        if a < b
    ]
    return nodes, lines


def _experts(graph: TopicGraph) -> tuple[list[_Node], list[_Line]]:
    """Experts as nodes, sized by their topics; a line is the weight of the ties between theirs, over the largest."""
    shades, owner = colours(graph.num_experts), graph.assignment.argmax(1)
    source, target = graph.assignment[graph.edge_index]
    ties = ((source * graph.edge_weight[:, None]).T @ target).fill_diagonal_(0)  # (E, E)
    ties = ties / ties.max().clamp_min(1e-12)
    pairs = [(a, b, float(ties[a, b])) for a, b in torch.combinations(torch.arange(graph.num_experts)).tolist()]
    places = _on_page(positions(graph.num_experts, pairs))
    nodes = []
    for expert, (x, y) in enumerate(places):
        own = (owner == expert).nonzero().flatten()
        lead = own[graph.assignment[own, expert].argsort(descending=True)][:LEADING].tolist()
        names = [graph.topics[topic] for topic in lead]
        tip = f"{len(own)} topics: {', '.join(names)}{' ...' if len(own) > len(lead) else ''}"
        size = 8 + 60 * (len(own) / graph.num_topics) ** 0.5
        nodes.append(_Node(f"expert {expert}: {', '.join(names[:2])}", tip, shades[expert], size, x, y))
    lines = [
        _Line(f"expert {a} - expert {b}: {tie:.2f}", None, tie, (*places[a], *places[b])) for a, b, tie in pairs if tie
    ]
    return nodes, lines


def _on_page(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Stretched to the drawing, y downwards as SVG has it, rounded to keep the file small."""
    at = torch.tensor(places, dtype=torch.float64)
    at = (at - at.amin(0)) / (at.amax(0) - at.amin(0)).clamp_min(1e-9)
    # Labels stand centred above their nodes and are wide.
    x = 2 * MARGIN + at[:, 0] * (WIDTH - 4 * MARGIN)
    y = HEIGHT - MARGIN / 2 - at[:, 1] * (HEIGHT - MARGIN)
    return [(round(a, 1), round(b, 1)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
