"""One picture of a topic graph: who is tied to whom, who owns what, and how far apart the experts are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

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


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps
    from matplotlib.colors import hsv_to_rgb

    if count <= 10:
        return [colormaps["tab10"](i) for i in range(count)]
    # Neighbouring hues alternate between light and dark, so that 16 stay apart; none so light that its label fades.
    return [hsv_to_rgb((i / count, 0.95, 0.85 if i % 2 else 0.55)) for i in range(count)]


def _network(axes: "Axes", graph: TopicGraph) -> None:
    import networkx as nx

    owner = graph.assignment.argmax(1).tolist()
    colours = _colours(graph.num_experts)
    net = nx.Graph()
    net.add_nodes_from(range(graph.num_topics))
    for (a, b), weight in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True):
        # Ties inside an expert pull harder: experts then show as clumps, ties between them as the lines crossing over.
        net.add_edge(a, b, weight=weight, pull=weight * (6 if owner[a] == owner[b] else 1))
    where = nx.spring_layout(net, weight="pull", k=2.2 / graph.num_topics**0.5, iterations=300, seed=0)
    where = _apart(where)
    for a, b, data in net.edges(data=True):
        inside = owner[a] == owner[b]
        axes.plot(
            *zip(where[a], where[b], strict=True),
            color=colours[owner[a]] if inside else "0.6",
            alpha=0.7 if inside else 0.25,
            linewidth=0.5 + 4 * data["weight"],
            zorder=1,
        )
    degree = dict(net.degree(weight="weight"))
    for node, (x, y) in where.items():
        axes.scatter(x, y, s=25 + 70 * degree[node], color=[colours[owner[node]]], edgecolor="white", zorder=2)
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
    for expert, colour in enumerate(colours):
        axes.scatter([], [], s=60, color=[colour], label=f"expert {expert}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=9, frameon=False, ncols=8)
    axes.margins(0.06)
    axes.set_axis_off()
    axes.set_title(f"{graph.num_topics} topics, {net.number_of_edges()} ties, coloured by their first expert")


def _apart(where: dict[int, Any], *, rounds: int = 200) -> dict[int, tuple[float, float]]:
    """Push nodes whose labels would overlap away from each other; labels are wide, so x counts less than y."""
    place = torch.tensor([list(where[node]) for node in sorted(where)], dtype=torch.float64)
    place = (place - place.amin(0)) / (place.amax(0) - place.amin(0)).clamp_min(1e-9)
    box = torch.tensor([0.105, 0.034], dtype=torch.float64)  # half of a label's usual size, as a share of the panel
    for _ in range(rounds):
        gap = place[:, None] - place[None]  # (T, T, 2)
        overlap = (2 * box - gap.abs()).clamp_min(0)
        touching = (overlap > 0).all(-1)
        touching.fill_diagonal_(False)
        # Upwards and downwards is the short way out of a label.
        step = torch.zeros_like(gap)
        step[..., 1] = torch.where(touching, 0.15 * overlap[..., 1] * torch.where(gap[..., 1] >= 0, 1.0, -1.0), 0.0)
        same = gap[..., 1] == 0
        order = torch.arange(len(place))
        step[..., 1] = torch.where(same & (order[:, None] < order[None]), -step[..., 1], step[..., 1])
        place = place + step.sum(1)
    return {node: (float(x), float(y)) for node, (x, y) in zip(sorted(where), place.tolist(), strict=True)}


def _by_expert(assignment: Tensor) -> list[int]:
    """Topics sorted by first expert, the surest first."""
    owner, top = assignment.argmax(1).tolist(), assignment.amax(1).tolist()
    return sorted(range(len(owner)), key=lambda t: (owner[t], -top[t]))


def _assignment(axes: "Axes", graph: TopicGraph) -> None:
    rows = _by_expert(graph.assignment)
    image = axes.imshow(graph.assignment[rows].numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1)
    colours = _colours(graph.num_experts)
    axes.set_yticks(range(len(rows)), [graph.topics[t] for t in rows], fontsize=8)
    for label, topic in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(colours[int(graph.assignment[topic].argmax())])
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
