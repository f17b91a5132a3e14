"""GMoE's router: convolutions over a graph of the experts and the token."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.routers.base import Router, RouterSettings, weights


class GraphRouter(Router):
    """Two graph convolutions over the experts and the token, which is joined to all of them (GMoE, arXiv 2412.16216).

    Experts are joined at random with density 0.1. The second convolution has no non-linearity after it, so its weight
    and the projection to one logit are a single vector.
    """

    adjacency: Tensor

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.token_weight = weights(settings, settings.width, settings.in_features)
        self.experts = nn.Parameter(torch.randn(settings.num_experts, settings.width))
        self.out_weight = nn.Parameter(torch.randn(settings.width) / settings.width**0.5)
        self.register_buffer("adjacency", random_expert_graph(settings.num_experts, density=0.1))

    def projection(self) -> Tensor:
        return self.token_weight

    def read(self, projected: Tensor) -> Tensor:
        dtype = projected.dtype
        adjacency = self.adjacency.to(dtype)
        mixed = adjacency[:, :-1] @ self.experts.to(dtype)  # what each node, the token last, hears from the experts
        nodes = F.relu(mixed + projected.unsqueeze(-2) * adjacency[:, -1:])  # (..., E + 1, width)
        return self.tempered((nodes @ self.out_weight.to(dtype)) @ adjacency[:-1].T)


def random_expert_graph(num_experts: int, *, density: float) -> Tensor:
    """Normalised adjacency (E + 1, E + 1), the last node a token joined to all; the same graph for every E.

    The first draw in which no two experts have the same neighbours: convolutions could not tell such two apart.
    """
    adjacency = next(filter(_tells_apart, (_drawn(num_experts, density, seed) for seed in itertools.count())))
    scale = adjacency.sum(-1).rsqrt()
    return scale[:, None] * adjacency * scale


def _drawn(num_experts: int, density: float, seed: int) -> Tensor:
    edges = torch.rand(num_experts, num_experts, generator=torch.Generator().manual_seed(seed), device="cpu").triu(1)
    adjacency = torch.ones(num_experts + 1, num_experts + 1, device="cpu")
    adjacency[:-1, :-1] = ((edges > 0) & (edges < density)).float()
    return ((adjacency + adjacency.T + torch.eye(num_experts + 1, device="cpu")) > 0).float()


def _tells_apart(adjacency: Tensor) -> bool:
    return len(adjacency[:-1].unique(dim=0)) == len(adjacency) - 1
