"""Where the nodes of a picture go and which colour they get, the same for the PNG and for the HTML page."""

import colorsys
from collections.abc import Sequence

import torch
from torch import Tensor

from topiclora_cli.topics.store import TopicGraph

MOST_DRAWN = 150  # topics; above, names would be a blot, and a node stands for an expert


def positions(count: int, edges: Sequence[tuple[int, int, float]]) -> list[tuple[float, float]]:
    """Places of `count` nodes, labels apart, for edges (a, b, pull); about the unit square, y upwards.

    A spring layout (Fruchterman and Reingold, 1991), then `apart`. The same edges give the same places.
    """
    import networkx as nx

    net = nx.Graph()
    net.add_nodes_from(range(count))
    net.add_weighted_edges_from(edges, weight="pull")
    where = nx.spring_layout(net, weight="pull", k=2.2 / count**0.5, iterations=300, seed=0)
    return apart([(float(x), float(y)) for x, y in (where[node] for node in range(count))])


def topic_positions(graph: TopicGraph) -> list[tuple[float, float]]:
    """Places of the topics; ties inside an expert pull harder, so that experts show as clumps."""
    owner = graph.assignment.argmax(1).tolist()
    ties = zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True)
    return positions(graph.num_topics, [(a, b, w * (6 if owner[a] == owner[b] else 1)) for (a, b), w in ties])


def apart(where: Sequence[tuple[float, float]], *, rounds: int = 200) -> list[tuple[float, float]]:
    """Push nodes whose labels would overlap away from each other; labels are wide, so x counts less than y."""
    place = torch.tensor(where, dtype=torch.float64)
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
    return [(float(x), float(y)) for x, y in place.tolist()]


def colours(count: int) -> list[str]:
    """One colour per expert, as #rrggbb."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= 10:
        # The grey, which is the colour of ties between experts, comes last.
        return [to_hex(colormaps["tab10"](i)) for i in (0, 1, 2, 3, 4, 9, 6, 8, 5, 7)[:count]]
    # Neighbouring hues alternate between light and dark, so that 16 stay apart; none so light that its label fades.
    return [to_hex(colorsys.hsv_to_rgb(i / count, 0.95, 0.85 if i % 2 else 0.55)) for i in range(count)]


def by_expert(assignment: Tensor) -> list[int]:
    """Topics of S (T, E) sorted by first expert, the surest first."""
    owner, top = assignment.argmax(1).tolist(), assignment.amax(1).tolist()
    return sorted(range(len(owner)), key=lambda t: (owner[t], -top[t]))
