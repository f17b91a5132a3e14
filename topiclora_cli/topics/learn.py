"""The training loop of stage 1: topic vectors and expert vectors, learnt together on the whole graph at every step."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.data import Data

from topiclora_cli.topics import experts
from topiclora_cli.topics.evidence import Evidence
from topiclora_cli.topics.gnn import TopicEncoder
from topiclora_cli.topics.graph import adjacency
from topiclora_cli.topics.settings import GraphSettings

PATIENCE, PROGRESS = 50, 1e-3  # steps without so much less loss end the training


def learn(
    data: Data,
    settings: GraphSettings,
    *,
    evidence: Evidence | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Topic vectors (T, d), expert vectors (E, d) and assignment (T, E) of a graph, in at most `settings.steps` steps.

    Stops early once PATIENCE steps have brought the loss down by less than PROGRESS. Draws from the global generator.
    """
    assert data.x is not None
    assert data.edge_index is not None
    weight = adjacency(data.edge_index, data.edge_weight, len(data.x))
    kinds = None if evidence is None else evidence.kinds
    weights = settings.weights
    best, patience = float("inf"), PATIENCE
    with torch.enable_grad():
        encode = TopicEncoder(settings.gnn, data.x.shape[1], settings.width, settings.layers)
        head = experts.ExpertHead(
            encode(data.x, data.edge_index, data.edge_weight),
            settings.num_experts,
            temperature=settings.assignment_temperature,
        )
        optimizer = torch.optim.Adam([*encode.parameters(), *head.parameters()], lr=settings.learning_rate)
        for step in range(settings.steps):
            z = encode(data.x, data.edge_index, data.edge_weight)
            losses = _losses(z, head, weight, settings.separation, kinds)
            loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if on_step is not None:
                on_step(step, {name: float(value.detach()) for name, value in losses.items()})
            patience -= 1
            if (now := float(loss.detach())) < best - PROGRESS:
                best, patience = now, PATIENCE
            if patience == 0:
                break
    with torch.no_grad():
        z = encode(data.x, data.edge_index, data.edge_weight)
        return z, head.vectors, head(z)


def _losses(
    z: Tensor,
    head: experts.ExpertHead,
    weight: Tensor,
    separation: experts.SeparationKind,
    kinds: tuple[Tensor, Tensor] | None,
) -> dict[str, Tensor]:
    assignment = head(z)
    kappa = experts.affinity(assignment=assignment, weight=weight)
    losses = {
        "link": experts.link_loss(z=z, weight=weight),
        "modularity": experts.modularity_loss(assignment=assignment, weight=weight),
        "balance": experts.balance_loss(assignment=assignment),
        "separation": experts.separation_loss(vectors=head.vectors, kind=separation, kappa=kappa),
    }
    if kinds is not None:
        losses["consistency"] = experts.consistency_loss(assignment=assignment, topics=kinds[0], share=kinds[1])
    return losses
