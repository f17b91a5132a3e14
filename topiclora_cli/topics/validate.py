"""Do topic vectors know ties they were not shown? The topic graph learnt again with some of its edges hidden."""

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from topiclora_cli.runs.results.graph import LinkReport
from topiclora_cli.topics.graph import standardise
from topiclora_cli.topics.learn import learn
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.sparse import DENSE
from topiclora_cli.topics.store import TopicGraph

SAMPLE = 100_000  # unlinked pairs that stand for all of a large graph's: an AUC's standard error stays below 0.002


def link_report(graph: TopicGraph, features: Tensor, *, share: float = 0.1) -> LinkReport | None:
    """Hide a share of the edges, learn from the rest with the graph's settings and seed, and score pairs by cosine.

    `features` (T, f) are what the graph was learnt from; `text_auc` is their own cosine's, which part of the edges were
    drawn from. Which topics share tasks or prompts is kept from the fit, as it would tell. Hidden edges are unlinked
    pairs to the link loss, as all others: naming them apart would give them away. Of more than DENSE topics, SAMPLE
    random unlinked pairs stand for all. None where edges are too few to hide one and keep one, or every pair is linked.
    """
    edges, weights = each_once(graph.edge_index, graph.edge_weight)
    hidden = max(1, round(share * len(weights)))
    generator = torch.Generator().manual_seed(graph.seed)
    order = torch.randperm(len(weights), generator=generator)
    unlinked = unlinked_pairs(edges, graph.num_topics, generator)
    if hidden >= len(weights) or not unlinked.numel():
        return None
    x = standardise(features.detach().float().cpu())
    data, held = hide_edges(x, edges, weights, torch.isin(torch.arange(len(weights)), order[:hidden]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(graph.seed)
        z, _, _ = learn(data, GraphSettings.of(graph))
    return LinkReport(hidden, _auc(z, held, unlinked), _auc(x, held, unlinked))


def each_once(edge_index: Tensor, edge_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Edges (2, m) with s < t, and their weights (m,), of a graph that has both directions."""
    once = edge_index[0] < edge_index[1]
    return edge_index[:, once], edge_weight[once]


def hide_edges(x: Tensor, edges: Tensor, weights: Tensor, hidden: Tensor) -> tuple[Data, Tensor]:
    """The graph of features x (T, d) and edges (2, m) without those that `hidden` (m,) marks, and these (2, h)."""
    kept = edges[:, ~hidden]
    shown = Data(x=x, edge_index=torch.cat((kept, kept.flip(0)), dim=1), edge_weight=weights[~hidden].repeat(2))
    return shown, edges[:, hidden]


def unlinked_pairs(edges: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Pairs s < t (2, pairs) of T topics that edges (2, m), s < t, do not join: all, or some of a large graph."""
    if count <= DENSE:
        pairs = torch.triu_indices(count, count, 1)
    else:
        drawn = torch.randint(count, (2, SAMPLE), generator=generator)
        pairs = torch.stack((drawn.amin(0), drawn.amax(0)))
        pairs = pairs[:, pairs[0] < pairs[1]]
    return pairs[:, ~torch.isin(pairs[0] * count + pairs[1], edges[0] * count + edges[1])]


def _auc(z: Tensor, linked: Tensor, unlinked: Tensor) -> float:
    """Chance that a linked pair (2, m) of rows of z (T, d) has the larger cosine than an unlinked one; ties half."""
    unit = F.normalize(z, dim=1)
    scores = torch.cat([_cosines(unit, pairs) for pairs in (linked, unlinked)])
    truth = torch.arange(len(scores)) < linked.shape[1]
    return float(roc_auc_score(truth.numpy(), scores.numpy()))


def _cosines(unit: Tensor, pairs: Tensor) -> Tensor:
    """Of pairs (2, m) of rows of unit (T, d); in parts, as their vectors take more room than all the rest."""
    return torch.cat([(unit[part[0]] * unit[part[1]]).sum(1) for part in pairs.split(16_384, dim=1)])
