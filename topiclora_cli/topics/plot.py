"""One picture of a topic graph: who is tied to whom, who owns what, and how far apart the experts are.

Hundreds of topics with their names would be a blot. Then the experts are the nodes, and topics are counted.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from topiclora_cli.topics.store import TopicGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 150  # topics up to which each is drawn with its name


def plot_graph(graph: TopicGraph, path: str | Path) -> Path:
    """Draw into one PNG: the graph coloured by first expert, the assignment S (T, E), the experts' cosines (E, E).

    Of more than NAMED topics, the ties between experts take the place of the graph, and topics lose their names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    named = graph.num_topics <= NAMED
    height = max(7.0, 0.19 * graph.num_topics + 1) if named else 10.0
    figure = Figure(figsize=(2.1 * height + 2, height), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: nothing of the caller's plotting state is touched
    shares = [2.6, 0.5 + 0.06 * graph.num_experts, 0.8]
    left, middle, right = figure.subplots(1, 3, width_ratios=shares)
    (_network if named else _experts)(left, graph)
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
    for expert, colour in enumerate(_colours(graph.num_experts)):
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
    image = axes.imshow(
        graph.assignment[rows].numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest"
    )
    colours = _colours(graph.num_experts)
    if len(rows) <= NAMED:
        axes.set_yticks(range(len(rows)), [graph.topics[t] for t in rows], fontsize=8)
        for label, topic in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(colours[int(graph.assignment[topic].argmax())])
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
