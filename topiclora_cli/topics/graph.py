"""The topic graph: which topics belong together, before anything is learnt.

Two topics are joined when tasks are often tagged with both (normalised pointwise mutual information, which does not
favour the topics that sit on every task) or when their descriptions read alike (cosine of text features). Only each
topic's strongest ties are kept. `rewire` shuffles the ties and keeps every topic's number of them: the control that
tells whether it is the graph's meaning, or just having a graph, that helps.
"""

import math
from collections import Counter
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.taxonomy import Taxonomy


def build_graph(
    taxonomy: Taxonomy,
    features: Tensor,
    *,
    npmi_weight: float = 0.5,
    cosine_floor: float = 0.2,
    neighbours: int = 8,
) -> Data:
    """Join the topics into a graph with x (T, d), edge_index (2, M), both directions, and edge_weight (M,) in (0, 1].

    Weight of s-t = npmi_weight * max(0, NPMI) + (1 - npmi_weight) * max(0, cos - cosine_floor); without tagged tasks
    the cosine alone, its floor at most half the strongest cosine of either topic. A tie stays if it is among the
    `neighbours` strongest of either end. `features` (T, d) are the encoder's vectors of `taxonomy.texts`; x is their
    standardised form. Raises TopicLoraError when the features do not fit the topics or no edge is left.
    """
    count = len(taxonomy.topics)
    if features.shape[0] != count:
        raise TopicLoraError(
            f"{features.shape[0]} feature rows for {count} topics.", "Encode taxonomy.texts, in order."
        )
    if not torch.isfinite(features).all():
        raise TopicLoraError("The encoder gave topic features that are not finite.", "Load the base model in float32.")
    x = standardise(features)
    cosine = (F.normalize(x, dim=1) @ F.normalize(x, dim=1).T).fill_diagonal_(0)  # (T, T)
    if taxonomy.tasks:
        weight = npmi_weight * npmi(taxonomy).clamp_min(0) + (1 - npmi_weight) * (cosine - cosine_floor).clamp_min(0)
    else:
        # Nothing else ties a topic then: of MMLU's 57, hashed, one floor for all left 41 without an edge.
        floor = (cosine.amax(1) / 2).clamp_max(cosine_floor)  # (T,)
        weight = (cosine - torch.minimum(floor[:, None], floor)).clamp_min(0)
    weight.fill_diagonal_(0)

    strongest = weight.topk(min(neighbours, count - 1), dim=1).indices
    kept = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, strongest, True)
    weight = weight * (kept | kept.T)
    if not weight.any():
        raise TopicLoraError(
            "The topic graph has no edges: no two topics share a task or read alike.",
            "Tag more tasks, raise graph.neighbours, lower graph.cosine_floor, or write fuller descriptions.",
        )
    edge_index = weight.nonzero().T.contiguous()
    return Data(x=x, edge_index=edge_index, edge_weight=weight[edge_index[0], edge_index[1]])


def standardise(features: Tensor) -> Tensor:
    """Centre and scale every column: (T, d) -> (T, d).

    Vectors of a language model all point roughly the same way (anisotropy, Ethayarajh, arXiv 1909.00512); what tells
    topics apart is how they differ from the mean.
    """
    spread = features.std(0, correction=0)
    return (features - features.mean(0)) / torch.where(spread > 1e-6, spread, torch.ones_like(spread))


def npmi(taxonomy: Taxonomy) -> Tensor:
    """Normalised pointwise mutual information of topics over tasks (T, T), in [-1, 1]; 0 where never tagged together.

    NPMI(s, t) = ln(p_st / (p_s p_t)) / -ln p_st (Bouma, 2009).
    """
    place = {name: index for index, name in enumerate(taxonomy.names)}
    alone: Counter[int] = Counter()
    together: Counter[tuple[int, int]] = Counter()
    for tags in taxonomy.tasks.values():
        members = sorted({place[tag] for tag in tags})
        alone.update(members)
        together.update(combinations(members, 2))
    total = len(taxonomy.tasks)
    out = torch.zeros(len(place), len(place))
    for (s, t), joint in together.items():
        # Two topics on every task say nothing about each other; the limit of the formula there is 0/0.
        value = math.log(joint * total / (alone[s] * alone[t])) / -math.log(joint / total) if joint < total else 0.0
        out[s, t] = out[t, s] = value
    return out


def rewire(data: Data, seed: int) -> Data:
    """Swap edge ends at random, keeping every topic's number of edges: the random-graph control.

    Repeats a-b, c-d -> a-d, c-b (Maslov and Sneppen, 2002) ten times per edge, skipping swaps that would make a loop
    or a double edge; weights travel with the edges. Features stay.
    """
    assert data.edge_index is not None
    generator = torch.Generator().manual_seed(seed)
    once = data.edge_index[0] < data.edge_index[1]
    edges: list[tuple[int, int]] = [(int(a), int(b)) for a, b in data.edge_index[:, once].T.tolist()]
    weights = data.edge_weight[once]
    present = {frozenset(edge) for edge in edges}
    for _ in range(10 * len(edges)):
        i, j, flip = torch.randint(0, 2**31, (3,), generator=generator).tolist()
        i, j = i % len(edges), j % len(edges)
        (a, b), (c, d) = edges[i], edges[j] if flip % 2 else edges[j][::-1]
        new = frozenset((a, d)), frozenset((c, b))
        if len({a, b, c, d}) < 4 or new[0] in present or new[1] in present:
            continue
        present -= {frozenset((a, b)), frozenset((c, d))}
        present |= set(new)
        edges[i], edges[j] = (a, d), (c, b)
    index = torch.tensor(edges).T  # (2, M / 2)
    return Data(
        x=data.x,
        edge_index=torch.cat((index, index.flip(0)), dim=1),
        edge_weight=torch.cat((weights, weights)),
    )


def adjacency(edge_index: Tensor, edge_weight: Tensor, count: int) -> Tensor:
    """Edges as a dense, symmetric (T, T) matrix."""
    out = torch.zeros(count, count, dtype=edge_weight.dtype)
    out[edge_index[0], edge_index[1]] = edge_weight
    return out
