"""Routers as a self-loading export has them: the rule by name, its numbers, and its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.routers import (
    CosineRouter,
    GraphRouter,
    LinearRouter,
    Router,
    SparsegenRouter,
    StaticRouter,
    ThresholdRouter,
    TopicRouter,
    UniformRouter,
)
from topiclora_cli.errors import TopicLoraError

READS = "reads"  # in a shape: the width of what the layer reads


@dataclass(frozen=True)
class ChooserSettings:
    """A router as shipped/choosing.py reads it; tensors: the shape of each of its own."""

    router: str
    experts: int
    joined: int = 0
    top_k: int | None = None
    top_p: float | None = None
    weights: str = "renormalised"
    temperature: float = 1.0
    version: int = 2
    tensors: Mapping[str, list[int | str]] = field(default_factory=dict)


@torch.no_grad()
def chooser_of(router: nn.Module, *, reads: int) -> tuple[ChooserSettings, dict[str, Tensor]]:
    """The same rule for a layer of this width; raises TopicLoraError for a router that looks beyond its token."""
    assert isinstance(router, Router)
    settings = router.settings
    name, tensors, temperature = _rule(router)
    shapes: dict[str, list[int | str]] = {
        key: [READS if place and size == reads else size for place, size in enumerate(value.shape)]
        for key, value in tensors.items()
    }
    said = ChooserSettings(
        name,
        settings.num_experts,
        joined=settings.shared,
        top_k=settings.top_k,
        top_p=settings.top_p,
        weights=settings.gate_weights,
        temperature=temperature,
        version=settings.version,
        tensors=shapes,
    )
    return said, {key: value.detach() for key, value in tensors.items()}


def _rule(router: Any) -> tuple[str, dict[str, Tensor], float]:
    """The name of the rule, its tensors, and the temperature that is still to divide its logits."""
    temperature = router.settings.temperature
    if isinstance(router, TopicRouter):  # keys, scale and temperature are in the product already
        return "scores", {"weight": router.projection(), "bias": F.pad(router.bias, (0, router.settings.shared))}, 1.0
    if isinstance(router, LinearRouter):
        return "scores", {"weight": router.projection()}, temperature
    if isinstance(router, CosineRouter):
        return "cosine", {"keys": router.keys}, temperature
    if isinstance(router, GraphRouter):
        tensors = {"weight": router.token_weight, "nodes": router.experts, "out": router.out_weight}
        return "graph", {**tensors, "adjacency": router.adjacency}, temperature
    if isinstance(router, StaticRouter):
        return "static", {"logits": router.logits}, temperature
    if isinstance(router, UniformRouter):
        return "uniform", {}, temperature
    if isinstance(router, ThresholdRouter):
        return "threshold", {"weight": router.projection(), "bias": router.threshold_bias}, temperature
    if isinstance(router, SparsegenRouter):
        own = {key: getattr(router, key) for key in ("hidden_bias", "out_weight", "out_bias")}
        return "sparsegen", {"weight": router.projection(), **own}, temperature
    raise TopicLoraError(
        f"A {type(router).__name__} looks at more than its own token, which stock tools cannot be told.",
        "Serve the adapter itself.",
    )
