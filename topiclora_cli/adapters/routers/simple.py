"""Routers of one product: linear, topical, cosine; and the controls that look at nothing."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.routers.base import Router, RouterSettings, weights


class LinearRouter(Router):
    """Logits W x / tau (MoLoRA, MixLoRA, MoLA, HydraLoRA and most others)."""

    joins_shared = True

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.weight = weights(settings, settings.num_experts, settings.in_features)
        if settings.shared:
            self.shared_weight = weights(settings, settings.shared, settings.in_features)

    def projection(self) -> Tensor:
        return torch.cat([self.weight, self.shared_weight]) if self.settings.shared else self.weight

    def read(self, projected: Tensor) -> Tensor:
        return self.tempered(projected)


class TopicRouter(Router):
    """Logits (W x) . k_e / (tau sqrt(d_k)) + b_e against topic-anchored keys k_e.

    The keys are stage 1's expert vectors rotated into their own span (keys.py), so d_k = E and no inner product
    changes; where experts came or went since (grow.py), the root stays that of their first number. Frozen keys are a
    buffer; trained keys remember their anchor for the anchor loss. Shared experts have no topic: where they join the
    softmax, each has a plain learned row. Reconstruction of TopicLoRA (AAAI 2026), of which only the abstract is
    public.
    """

    joins_shared = True
    keys: Tensor
    anchor: Tensor

    def __init__(self, settings: RouterSettings, keys: Tensor, *, train_keys: bool = False) -> None:
        super().__init__(settings)
        num_experts, width = keys.shape
        self.scale = 1.0 / (settings.temperature * (settings.first_experts or width) ** 0.5)
        self.weight = weights(settings, width, settings.in_features)
        self.bias = nn.Parameter(torch.zeros(num_experts))
        if settings.shared:
            self.shared_weight = weights(settings, settings.shared, settings.in_features)
        if train_keys:
            self.keys = nn.Parameter(keys.clone())
            self.register_buffer("anchor", keys.clone())
        else:
            self.register_buffer("keys", keys.clone())

    @property
    def first_keys(self) -> Tensor:
        """The keys that it started from."""
        return self.anchor if isinstance(self.keys, nn.Parameter) else self.keys

    def projection(self) -> Tensor:
        # Keys meet the weight, not the tokens: (E, d_k) @ (d_k, d_in) is small and saves a tensor per token.
        routed = (self.keys.to(self.weight.dtype) @ self.weight) * self.scale
        return torch.cat([routed, self.tempered(self.shared_weight)]) if self.settings.shared else routed

    def read(self, projected: Tensor) -> Tensor:
        shared = self.settings.shared
        return projected + (F.pad(self.bias, (0, shared)) if shared else self.bias)


class CosineRouter(Router):
    """Logits cos(A x, k_e) / tau, in the rank space of the layer's A (SAMoRA, arXiv 2604.19048)."""

    reads_rank_space = True

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.keys = weights(settings, settings.num_experts, settings.in_features)

    def read(self, projected: Tensor) -> Tensor:
        direction = F.normalize(projected, dim=-1)
        return self.tempered(F.linear(direction, F.normalize(self.keys.to(direction.dtype), dim=-1)))


class UniformRouter(Router):
    """Every expert with weight 1/E: the control without routing. With one expert, a plain LoRA."""

    chooses_itself = True
    takes_prior = False

    def read(self, projected: Tensor) -> Tensor:
        return projected.new_zeros(*projected.shape[:-1], self.settings.num_experts)


class StaticRouter(Router):
    """Learned logits that do not look at the input: the control with routing but no choice."""

    takes_prior = False

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.logits = nn.Parameter(torch.zeros(settings.num_experts))

    def read(self, projected: Tensor) -> Tensor:
        return self.tempered(self.logits.to(projected.dtype)).expand(*projected.shape[:-1], -1)


def known_keys(routers: nn.ModuleDict, adapter_name: str) -> Tensor | None:
    """The keys that an adapter's topic router started from, None where it has none."""
    router = dict(routers.items()).get(adapter_name)
    return router.first_keys if isinstance(router, TopicRouter) else None
