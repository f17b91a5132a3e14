"""Do topic vectors know ties they were not shown? The topic graph learnt again with some of its edges hidden."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from topiclora_cli.topics.fit import LEARNT_WITH, learn
from topiclora_cli.topics.graph import adjacency, standardise
from topiclora_cli.topics.store import TopicGraph


@dataclass(frozen=True)
class LinkReport:
    """How many edges were hidden, and the AUC of hidden edges against unlinked pairs: by topic vectors, by text."""

    hidden: int
    auc: float
    text_auc: float


def link_report(graph: TopicGraph, features: Tensor, *, share: float = 0.1) -> LinkReport | None:
    """Hide a share of the edges, learn from the rest with the graph's settings and seed, and score pairs by cosine.

    `features` (T, f) are what the graph was learnt from; `text_auc` is their own cosine's, which part of the edges were
    drawn from. Hidden edges are unlinked pairs to the link loss, as all others: naming them apart would give them away.
    None where edges are too few to hide one and keep one, or every pair is linked.
    """
    once = graph.edge_index[0] < graph.edge_index[1]
    edges, weights = graph.edge_index[:, once], graph.edge_weight[once]
    count, hidden = graph.num_topics, max(1, round(share * len(weights)))
    linked = adjacency(graph.edge_index, graph.edge_weight, count) > 0
    unlinked = (~linked).triu(1).nonzero().T  # (2, pairs)
    if hidden >= len(weights) or not unlinked.numel():
        return None
    order = torch.randperm(len(weights), generator=torch.Generator().manual_seed(graph.seed))
    kept, held = edges[:, order[hidden:]], edges[:, order[:hidden]]
    x = standardise(features.detach().float().cpu())
    data = Data(
        x=x,
        edge_index=torch.cat((kept, kept.flip(0)), dim=1),
        edge_weight=weights[order[hidden:]].repeat(2),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(graph.seed)
        z, _, _ = learn(data, num_experts=graph.num_experts, **{name: graph.config[name] for name in LEARNT_WITH})
    return LinkReport(hidden, _auc(z, held, unlinked), _auc(x, held, unlinked))


def _auc(z: Tensor, linked: Tensor, unlinked: Tensor) -> float:
    """Chance that a linked pair (2, m) of rows of z (T, d) has the larger cosine than an unlinked one; ties half."""
    unit = F.normalize(z, dim=1)
    high, low = ((unit[pairs[0]] * unit[pairs[1]]).sum(1) for pairs in (linked, unlinked))
    gap = high[:, None] - low[None]  # (m, pairs)
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())
