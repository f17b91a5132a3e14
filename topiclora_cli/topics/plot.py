"""One picture of a topic graph: who is tied to whom, who owns what, and how far apart the experts are."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from topiclora_cli.topics.layout import by_expert, colours, topic_positions
from topiclora_cli.topics.store import TopicGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_graph(graph: TopicGraph, path: str | Path) -> Path:
    """Draw into one PNG: the graph coloured by first expert, the assignment S (T, E), the experts' cosines (E, E)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = max(7.0, 0.19 * graph.num_topics + 1)
    figure = Figure(figsize=(2.1 * height + 2, height), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: nothing of the caller's plotting state is touched
    shares = [2.6, 0.5 + 0.06 * graph.num_experts, 0.8]
    left, middle, right = figure.subplots(1, 3, width_ratios=shares)
    _network(left, graph)
    _assignment(middle, graph)
    _cosines(right, graph)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")
    return path


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


def _assignment(axes: "Axes", graph: TopicGraph) -> None:
    rows = by_expert(graph.assignment)
    image = axes.imshow(graph.assignment[rows].numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1)
    shades = colours(graph.num_experts)
    axes.set_yticks(range(len(rows)), [graph.topics[t] for t in rows], fontsize=8)
    for label, topic in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(shades[int(graph.assignment[topic].argmax())])
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
