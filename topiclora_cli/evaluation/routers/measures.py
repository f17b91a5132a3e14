"""What the routers of a layer do with topics, in numbers, each with what chance would make of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, mode

import torch
from torch import Tensor

from topiclora_cli.evaluation.routers.observed import Observed
from topiclora_cli.topics.distributions import entropy, mutual_information

DRAWS = 999


@dataclass(frozen=True)
class Shared:
    """Mutual information of topic and expert in nats: as found, its mean under the null, and the p-value.

    The null: which topics an example carries is drawn anew among the examples. Few examples share some information by
    chance, which `corrected` leaves out.
    """

    found: float
    by_chance: float
    p: float

    @property
    def corrected(self) -> float:
        """What is found beyond chance."""
        return self.found - self.by_chance


def membership(topics: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """The names of all topics, and each example's part in them (T, N): one, in equal parts."""
    names = sorted({topic for tags in topics for topic in tags})
    place = {name: at for at, name in enumerate(names)}
    parts = torch.zeros(len(names), len(topics))
    for column, tags in enumerate(topics):
        for topic in tags:
            parts[place[topic], column] = 1 / len(tags)
    return names, parts


def shared_information(parts: Tensor, gates: Tensor, *, draws: int = DRAWS, seed: int = 0) -> Shared:
    """Mutual information of topic and expert, by parts (T, N) and gates (N, E), against its permutation null."""
    generator = torch.Generator().manual_seed(seed)
    found = mutual_information(parts @ gates)
    orders = torch.stack([torch.randperm(len(gates), generator=generator) for _ in range(draws)])
    joint = torch.einsum("tn,pne->pte", parts, gates[orders])
    joint = joint / joint.sum((1, 2), keepdim=True).clamp_min(1e-12)
    null = entropy(joint.sum(1)) + entropy(joint.sum(2)) - entropy(joint.flatten(1))
    # Draws that repeat the order as it is differ from it by rounding alone.
    p = (1 + int((null >= found - 1e-6).sum())) / (draws + 1)
    return Shared(found, float(null.mean()), p)


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence of distributions (..., E) in nats: (...), from 0 to ln 2."""
    middle = (one + other) / 2
    return (entropy(middle) - (entropy(one) + entropy(other)) / 2).clamp_min(0)


def agreement(gates: Tensor, prior: Tensor) -> tuple[float, float]:
    """How often the expert with the largest gate is the prior's of an example, and their mean divergence in nats."""
    same = (gates.argmax(-1) == prior.argmax(-1)).float().mean()
    return float(same), float(divergence(gates, prior).mean())


def loads(modules: Sequence[Tensor]) -> tuple[float, float, float]:
    """Of modules' gates (N, E): effective experts of a router, the coefficient of variation of loads, the largest load.

    Means over the modules, but for the largest.
    """
    found = [gates.mean(0) for gates in modules]
    shares = [load / load.sum().clamp_min(1e-12) for load in found]
    effective = fmean(float(1 / share.square().sum().clamp_min(1e-12)) for share in shares)
    variation = fmean(float(share.std(correction=0) / share.mean()) for share in shares)
    return effective, variation, max(float(share.max()) for share in shares)


def by_layer(observed: Observed, layer_of: Mapping[str, int | None]) -> dict[int | None, list[str]]:
    """The modules of each decoder layer that have its most frequent number of experts, in order of execution."""
    found: dict[int | None, list[str]] = {}
    for name in observed.gates:
        found.setdefault(layer_of[name], []).append(name)
    return {
        layer: [n for n in names if observed.gates[n].shape[-1] == mode(observed.gates[m].shape[-1] for m in names)]
        for layer, names in found.items()
    }
