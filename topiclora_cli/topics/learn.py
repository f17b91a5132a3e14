"""The training loop of stage 1: topic vectors and expert vectors, learnt together on the whole graph at every step."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch_geometric.data import Data

from topiclora_cli.topics import experts
from topiclora_cli.topics.evidence import Evidence
from topiclora_cli.topics.gnn import GnnKind, TopicEncoder
from topiclora_cli.topics.graph import adjacency

# Separation is a mean over pairs of experts, so one coinciding pair among many weighs little: at 16 experts a weight
# of 5 left two of them 55 degrees apart, 10 gave 73. Consistency costs modularity, on BIG-bench with 8 experts 0.43 at
# 0, 0.38 at 2 and 0.36 at 3, and brings the information of task and expert from 0.66 to 0.79 and 0.80.
LOSS_WEIGHTS = {"link": 1.0, "modularity": 1.0, "balance": 1.0, "separation": 10.0, "consistency": 2.0}
DMON_WEIGHTS = {"link": 0.0, "modularity": 1.0, "balance": 1.0, "separation": 0.0, "consistency": 0.0}
LEARNING_RATE, TEMPERATURE = 1e-2, 0.2  # temperature: of the softmax that assigns topics to experts

# What `learn` takes besides the graph, the evidence and the number of experts, as TopicGraph.config names it.
_TRAINED = ("steps", "learning_rate", "assignment_temperature", "loss_weights")
LEARNT_WITH = ("gnn", "layers", "width", "separation", *_TRAINED)

PATIENCE, PROGRESS = 50, 1e-3  # steps without so much less loss end the training


def learn(
    data: Data,
    *,
    num_experts: int,
    gnn: GnnKind,
    separation: experts.SeparationKind,
    steps: int,
    width: int,
    layers: int,
    learning_rate: float = LEARNING_RATE,
    assignment_temperature: float = TEMPERATURE,
    loss_weights: Mapping[str, float] = LOSS_WEIGHTS,
    evidence: Evidence | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Topic vectors (T, d), expert vectors (E, d) and assignment (T, E) of a graph, in at most `steps` steps.

    Stops early once PATIENCE steps have brought the loss down by less than PROGRESS. Draws from the global generator.
    """
    assert data.x is not None
    assert data.edge_index is not None
    weight = adjacency(data.edge_index, data.edge_weight, len(data.x))
    kinds = None if evidence is None else evidence.kinds
    best, patience = float("inf"), PATIENCE
    with torch.enable_grad():
        encode = TopicEncoder(gnn, data.x.shape[1], width, layers)
        head = experts.ExpertHead(
            encode(data.x, data.edge_index, data.edge_weight), num_experts, temperature=assignment_temperature
        )
        optimizer = torch.optim.Adam([*encode.parameters(), *head.parameters()], lr=learning_rate)
        for step in range(steps):
            z = encode(data.x, data.edge_index, data.edge_weight)
            losses = _losses(z, head, weight, separation, kinds)
            loss = torch.stack([loss_weights[name] * value for name, value in losses.items()]).sum()
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
