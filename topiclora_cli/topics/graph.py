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
from topiclora_cli.topics.sparse import DENSE, leading_eigenvectors, symmetric
from topiclora_cli.topics.taxonomy import Taxonomy

BLOCK = 1024  # topics that are compared with all others at a time


def build_graph(
    taxonomy: Taxonomy,
    features: Tensor,
    *,
    npmi_weight: float = 0.5,
    cosine_floor: float = 0.2,
    neighbours: int = 8,
) -> Data:
    """Join the topics into a graph with x (T, d), edge_index (2, M), both directions, and edge_weight (M,) in (0, 1].

    Weight of s-t = npmi_weight * max(0, NPMI) + (1 - npmi_weight) * max(0, cos - cosine_floor); without tagged tasks,
    or where these tie no topics, the cosine alone, above chance, its floor at most half the strongest of either topic.
    A tie stays if it is among the `neighbours` strongest of either end. `features` (T, d) are the encoder's vectors of
    `taxonomy.texts`; x is their standardised form. Raises TopicLoraError when the features do not fit the topics or no
    edge is left.
    """
    count = len(taxonomy.topics)
    if features.shape[0] != count:
        raise TopicLoraError(
            f"{features.shape[0]} feature rows for {count} topics.", "Encode taxonomy.texts, in order."
        )
    if not torch.isfinite(features).all():
        raise TopicLoraError("The encoder gave topic features that are not finite.", "Load the base model in float32.")
    x = standardise(features)
    edge_weight = torch.empty(0)
    # Over a task or two every NPMI is 0: where tasks leave no tie at all, the texts have to do.
    for together in (npmi(taxonomy), None) if taxonomy.tasks else (None,):
        if not edge_weight.numel():
            edge_index, edge_weight = _strongest_ties(
                F.normalize(x, dim=1),
                together,
                npmi_weight=npmi_weight,
                cosine_floor=cosine_floor,
                neighbours=neighbours,
            )
    if not edge_weight.numel():
        raise TopicLoraError(
            "The topic graph has no edges: no two topics share a task or read alike.",
            "Tag tasks with several topics, write fuller descriptions, or use another graph.encoder.",
        )
    return Data(x=x, edge_index=edge_index, edge_weight=edge_weight)


def _strongest_ties(
    unit: Tensor, together: Tensor | None, *, npmi_weight: float, cosine_floor: float, neighbours: int
) -> tuple[Tensor, Tensor]:
    """Edges (2, M), sorted, and weights (M,) from unit features (T, d) and sparse NPMI (T, T), in blocks of rows."""
    count = len(unit)
    blocks = torch.arange(count).split(BLOCK)
    if together is None:
        # Nothing else ties a topic then: of MMLU's 57, hashed, one floor for all left 41 without an edge.
        # What vectors share by chance after centring is -1 / (T - 1); a handful of topics would all lie below 0.
        chance = -1 / (count - 1)
        closest = torch.cat([_cosines(unit, rows).amax(1) for rows in blocks]) - chance
        floor = (closest / 2).clamp_max(cosine_floor)  # (T,)
    kept: dict[str, list[Tensor]] = {"source": [], "target": [], "weight": []}
    for rows in blocks:
        cosine = _cosines(unit, rows)  # (b, T)
        if together is None:
            weight = (cosine - chance - torch.minimum(floor[rows, None], floor)).clamp_min(0)
        else:
            shared = together.index_select(0, rows).to_dense().clamp_min(0)
            weight = npmi_weight * shared + (1 - npmi_weight) * (cosine - cosine_floor).clamp_min(0)
        weight[torch.arange(len(rows)), rows] = 0
        best = weight.topk(min(neighbours, count - 1), dim=1)
        place, rank = (best.values > 0).nonzero(as_tuple=True)
        kept["source"].append(rows[place])
        kept["target"].append(best.indices[place, rank])
        kept["weight"].append(best.values[place, rank])
    source, target, weight = (torch.cat(parts) for parts in kept.values())
    both = torch.cat((source * count + target, target * count + source))
    edges, first = both.unique(return_inverse=True)
    # A tie that is strong at both ends comes twice; rounding apart, with the same weight.
    weights = torch.empty(len(edges)).scatter_reduce_(0, first, weight.repeat(2), "amax", include_self=False)
    return torch.stack((edges // count, edges % count)), weights


def _cosines(unit: Tensor, rows: Tensor) -> Tensor:
    """Cosines (b, T) of the given rows of unit (T, d) with all, -1 with themselves."""
    cosine = unit[rows] @ unit.T
    cosine[torch.arange(len(rows)), rows] = -1
    return cosine


def standardise(features: Tensor) -> Tensor:
    """Centre and scale every column: (T, d) -> (T, d).

    Vectors of a language model all point roughly the same way (anisotropy, Ethayarajh, arXiv 1909.00512); what tells
    topics apart is how they differ from the mean.
    """
    spread = features.std(0, correction=0)
    return (features - features.mean(0)) / torch.where(spread > 1e-6, spread, torch.ones_like(spread))


def npmi(taxonomy: Taxonomy) -> Tensor:
    """Normalised pointwise mutual information of topics over tasks, sparse (T, T), in [-1, 1].

    Empty where never tagged together.

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
    # Two topics on every task say nothing about each other; the limit of the formula there is 0/0.
    values = [
        math.log(joint * total / (alone[s] * alone[t])) / -math.log(joint / total) if joint < total else 0.0
        for (s, t), joint in together.items()
    ]
    pairs = torch.tensor(list(together), dtype=torch.int64).reshape(-1, 2).T
    return torch.sparse_coo_tensor(
        torch.cat((pairs, pairs.flip(0)), dim=1),
        torch.tensor(values).repeat(2),
        (len(place), len(place)),
        check_invariants=False,
    ).coalesce()


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
    for i, j, flip in torch.randint(0, 2**31, (10 * len(edges), 3), generator=generator).tolist():
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
    """Edges as a symmetric (T, T) matrix, dense for up to DENSE topics and sparse beyond."""
    if count > DENSE:
        return symmetric(edge_index, edge_weight, count)
    out = torch.zeros(count, count, dtype=edge_weight.dtype)
    out[edge_index[0], edge_index[1]] = edge_weight
    return out


def diffusion(weight: Tensor, *, time: float = 2.0, rank: int = 256) -> Tensor:
    """Nearness of topics in a graph A (T, T), dense or sparse, as R (T, k): topic s is near t as far as (R R')_st goes.

    R R' is the diffusion kernel exp(-time L) of the normalised Laplacian L (Kondor and Lafferty, 2002), its diagonal 1
    on average; of a sparse graph, its part in the `rank` leading eigenvectors.
    """
    count = len(weight)
    values, vectors = leading_eigenvectors(weight, count if weight.layout is torch.strided else min(rank, count - 2))
    root = vectors * torch.exp(-time * (1 - values) / 2)
    return root * (count / root.square().sum()).sqrt()
