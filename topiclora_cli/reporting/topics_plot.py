"""Pictures of a topic graph, one a question: who is tied to whom, who owns what, and how far apart the experts are.

Hundreds of topics with their names would be a blot. Then the experts are the nodes, and topics are counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from topiclora_cli.reporting.figures import new_figure, save_png
from topiclora_cli.reporting.topics_layout import MOST_DRAWN, by_expert, colours, topic_positions
from topiclora_cli.topics.store import TopicGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, SHARP = 8.3, 200  # inches, and dots to an inch: at 830 pixels in a page, text has the size of the page's
_LED_BY = 2  # topics that name an expert


@dataclass(frozen=True)
class _Paper:
    ground: str
    ink: str
    faint: str  # ties between experts


LIGHT, DARK = _Paper("white", "#1b1b1f", "0.6"), _Paper("#17171b", "#ececf0", "0.5")


def plot_graph(graph: TopicGraph, path: str | Path, *, dark: bool = False) -> Path:
    """Draw topics and their ties into one PNG, coloured by first expert; of more than MOST_DRAWN topics, the experts.

    dark: on a dark ground, for pages that have one.
    """
    named, paper = graph.num_topics <= MOST_DRAWN, DARK if dark else LIGHT
    figure = new_figure(WIDTH, max(5.6, 0.115 * graph.num_topics) if named else 6.4, ground=paper.ground)
    (_network if named else _experts)(figure.subplots(), graph, paper)
    return save_png(figure, path, dpi=SHARP)


def plot_assignment(graph: TopicGraph, path: str | Path) -> Path:
    """Draw the assignment S (T, E) into one PNG: how much of each topic every expert has."""
    named = graph.num_topics <= MOST_DRAWN
    figure = new_figure(3.2 + 0.34 * graph.num_experts, 1.2 + 0.165 * graph.num_topics if named else 9.0)
    _assignment(figure.subplots(), graph)
    return save_png(figure, path, dpi=SHARP)


def plot_cosines(graph: TopicGraph, path: str | Path) -> Path:
    """Draw the cosines (E, E) between the experts' vectors into one PNG."""
    size = min(9.0, 2.2 + 0.42 * graph.num_experts)
    figure = new_figure(size, size + 0.5)
    _cosines(figure.subplots(), graph)
    return save_png(figure, path, dpi=SHARP)


def expert_names(graph: TopicGraph) -> list[str]:
    """Each expert by its number and its leading topics."""
    owner, names = graph.assignment.argmax(1), []
    for expert in range(graph.num_experts):
        own = (owner == expert).nonzero().flatten()
        lead = own[graph.assignment[own, expert].argsort(descending=True)][:_LED_BY].tolist()
        names.append(f"{expert}: {', '.join(graph.topics[topic] for topic in lead) or 'no topic'}")
    return names


def _network(axes: "Axes", graph: TopicGraph, paper: _Paper) -> None:
    owner = graph.assignment.argmax(1).tolist()
    shades = colours(graph.num_experts)
    ties = {
        (a, b): w for (a, b), w in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True) if a < b
    }
    degree = torch.zeros(graph.num_topics).index_add(0, graph.edge_index[0], graph.edge_weight).tolist()
    where = topic_positions(graph)
    for (a, b), weight in ties.items():
        inside = owner[a] == owner[b]
        axes.plot(
            *zip(where[a], where[b], strict=True),
            color=shades[owner[a]] if inside else paper.faint,
            alpha=0.7 if inside else 0.25,
            linewidth=0.4 + 2.5 * weight,
            zorder=1,
        )
    for node, (x, y) in enumerate(where):
        axes.scatter(x, y, s=14 + 28 * degree[node], color=[shades[owner[node]]], edgecolor=paper.ground, zorder=2)
        axes.annotate(
            graph.topics[node],
            (x, y),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=paper.ink,
            zorder=3,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": paper.ground, "alpha": 0.7, "edgecolor": "none"},
        )
    for name, colour in zip(expert_names(graph), shades, strict=True):
        axes.scatter([], [], s=36, color=[colour], label=name)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        fontsize=7.5,
        labelcolor=paper.ink,
        frameon=False,
        ncols=3,
        columnspacing=1.2,
        handletextpad=0.2,
    )
    axes.margins(0.06)
    axes.set_axis_off()
    title = f"{graph.num_topics} topics and {len(ties)} ties, coloured by expert"
    axes.set_title(title, fontsize=9.5, color=paper.ink)


def _experts(axes: "Axes", graph: TopicGraph, paper: _Paper) -> None:
    """One disc per expert, its area the number of topics; a line as wide as the share of ties between two experts."""
    owner = graph.assignment.argmax(1)
    topics = torch.bincount(owner, minlength=graph.num_experts)
    source, target = owner[graph.edge_index]
    ties = torch.zeros(graph.num_experts, graph.num_experts)
    ties.index_put_((source, target), torch.full((len(source),), 0.5), accumulate=True)  # both directions are stored
    inside = int(ties.diagonal().sum())
    across = ties + ties.T
    angle = torch.arange(graph.num_experts) * (2 * torch.pi / graph.num_experts)
    x, y = angle.sin().tolist(), angle.cos().tolist()
    widest = float(across.fill_diagonal_(0).amax().clamp_min(1))
    for a, b in across.triu(1).nonzero().tolist():
        share = float(across[a, b]) / widest
        axes.plot(
            (x[a], x[b]), (y[a], y[b]), color=paper.faint, alpha=0.15 + 0.5 * share, linewidth=8 * share, zorder=1
        )
    biggest = 2400 / max(1, graph.num_experts / 8)
    for expert, colour in enumerate(colours(graph.num_experts)):
        count = int(topics[expert])
        area = biggest * count / int(topics.max())
        axes.scatter(x[expert], y[expert], s=area, color=[colour], edgecolor=paper.ground, zorder=2)
        text = f"expert {expert}\n{count} topics"
        axes.annotate(text, (1.22 * x[expert], 1.22 * y[expert]), ha="center", va="center", fontsize=9, color=colour)
    axes.margins(0.12)
    axes.set_aspect("equal")
    axes.set_axis_off()
    total = graph.edge_index.shape[1] // 2
    axes.set_title(
        f"{graph.num_topics} topics, too many to draw one by one, counted by their first expert;\n"
        f"{inside} of {total} ties stay inside an expert, lines show how the others join two",
        fontsize=9.5,
        color=paper.ink,
    )


def _assignment(axes: "Axes", graph: TopicGraph) -> None:
    rows = by_expert(graph.assignment)
    image = axes.imshow(
        graph.assignment[rows].numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest"
    )
    shades = colours(graph.num_experts)
    if len(rows) <= MOST_DRAWN:
        axes.set_yticks(range(len(rows)), [graph.topics[t] for t in rows], fontsize=7.5)
        for label, topic in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(shades[int(graph.assignment[topic].argmax())])
    else:
        axes.set_ylabel("topics, by their first expert")
    axes.set_xticks(range(graph.num_experts))
    axes.set_xlabel("expert")
    axes.set_title("How much of a topic each expert has", fontsize=9.5)
    axes.figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, pad=0.01)


def _cosines(axes: "Axes", graph: TopicGraph) -> None:
    unit = F.normalize(graph.expert_vectors, dim=1)
    cosine = (unit @ unit.T).numpy()
    image = axes.imshow(cosine, cmap="RdBu_r", vmin=-1, vmax=1)
    if graph.num_experts <= 10:
        for (row, column), value in ((p, float(cosine[p])) for p in _pairs(graph.num_experts)):
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value > 0.7 else "k"
            )
    axes.set_xticks(range(graph.num_experts))
    axes.set_yticks(range(graph.num_experts))
    axes.set_xlabel("expert")
    axes.set_title("Cosines between the experts' vectors", fontsize=9.5)
    axes.figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, pad=0.02)


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(count) for column in range(count)]
