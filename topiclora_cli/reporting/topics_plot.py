"""One picture of a topic graph: who is tied to whom, who owns what, and how far apart the experts are.

Hundreds of topics with their names would be a blot. Then the experts are the nodes, and topics are counted.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from topiclora_cli.reporting.figures import new_figure, save_png
from topiclora_cli.reporting.topics_layout import MOST_DRAWN, by_expert, colours, topic_positions
from topiclora_cli.topics.store import TopicGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_graph(graph: TopicGraph, path: str | Path) -> Path:
    """Draw into one PNG: the graph coloured by first expert, the assignment S (T, E), the experts' cosines (E, E).

    Of more than MOST_DRAWN topics, the ties between experts take the place of the graph, and topics lose their names.
    """
    named = graph.num_topics <= MOST_DRAWN
    height = max(7.0, 0.19 * graph.num_topics + 1) if named else 10.0
    figure = new_figure(2.1 * height + 2, height)
    shares = [2.6, 0.5 + 0.06 * graph.num_experts, 0.8]
    left, middle, right = figure.subplots(1, 3, width_ratios=shares)
    (_network if named else _experts)(left, graph)
    _assignment(middle, graph)
    _cosines(right, graph)
    return save_png(figure, path)


def _network(axes: "Axes", graph: TopicGraph) -> None:
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
            color=shades[owner[a]] if inside else "0.6",
            alpha=0.7 if inside else 0.25,
            linewidth=0.5 + 4 * weight,
            zorder=1,
        )
    for node, (x, y) in enumerate(where):
        axes.scatter(x, y, s=25 + 70 * degree[node], color=[shades[owner[node]]], edgecolor="white", zorder=2)
        axes.annotate(
            graph.topics[node],
            (x, y),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            zorder=3,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.75, "edgecolor": "none"},
        )
    for expert, colour in enumerate(shades):
        axes.scatter([], [], s=60, color=[colour], label=f"expert {expert}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=9, frameon=False, ncols=8)
    axes.margins(0.06)
    axes.set_axis_off()
    axes.set_title(f"{graph.num_topics} topics, {len(ties)} ties, coloured by their first expert")


def _experts(axes: "Axes", graph: TopicGraph) -> None:
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
        axes.plot((x[a], x[b]), (y[a], y[b]), color="0.5", alpha=0.15 + 0.5 * share, linewidth=8 * share, zorder=1)
    biggest = 6000 / max(1, graph.num_experts / 8)
    for expert, colour in enumerate(colours(graph.num_experts)):
        count = int(topics[expert])
        area = biggest * count / int(topics.max())
        axes.scatter(x[expert], y[expert], s=area, color=[colour], edgecolor="white", zorder=2)
        text = f"expert {expert}\n{count} topics"
        axes.annotate(text, (1.22 * x[expert], 1.22 * y[expert]), ha="center", va="center", fontsize=9, color=colour)
    axes.margins(0.12)
    axes.set_aspect("equal")
    axes.set_axis_off()
    total = graph.edge_index.shape[1] // 2
    axes.set_title(
        f"{graph.num_topics} topics, too many to draw one by one, counted by their first expert;\n"
        f"{inside} of {total} ties stay inside an expert, lines show how the others join two"
    )


def _assignment(axes: "Axes", graph: TopicGraph) -> None:
    rows = by_expert(graph.assignment)
    image = axes.imshow(
        graph.assignment[rows].numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest"
    )
    shades = colours(graph.num_experts)
    if len(rows) <= MOST_DRAWN:
        axes.set_yticks(range(len(rows)), [graph.topics[t] for t in rows], fontsize=8)
        for label, topic in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(shades[int(graph.assignment[topic].argmax())])
    else:
        axes.set_ylabel("topics, by their first expert")
    axes.set_xticks(range(graph.num_experts))
    axes.set_xlabel("expert")
    axes.set_title("P(expert | topic)")
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
    axes.set_title("cosine of expert vectors")
    axes.figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, pad=0.02)


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(count) for column in range(count)]
