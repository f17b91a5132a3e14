"""Routers turn a hidden state into scores per expert, and those into logits and gates."""

from topiclora_cli.adapters.routers.adaptive import SparsegenRouter, ThresholdRouter
from topiclora_cli.adapters.routers.base import VERSION, Decision, Pool, Router, RouterSettings, no_pooling
from topiclora_cli.adapters.routers.graph import GraphRouter
from topiclora_cli.adapters.routers.hierarchical import HierarchicalRouter
from topiclora_cli.adapters.routers.simple import (
    CosineRouter,
    LinearRouter,
    StaticRouter,
    TopicRouter,
    UniformRouter,
    known_keys,
)

INITS = ("kaiming", "normal")
ROUTERS: dict[str, type[Router]] = {
    "topic": TopicRouter,
    "linear": LinearRouter,
    "cosine": CosineRouter,
    "threshold": ThresholdRouter,
    "sparsegen": SparsegenRouter,
    "hierarchical": HierarchicalRouter,
    "graph": GraphRouter,
    "uniform": UniformRouter,
    "static": StaticRouter,
}

__all__ = [
    "INITS",
    "ROUTERS",
    "VERSION",
    "CosineRouter",
    "Decision",
    "GraphRouter",
    "HierarchicalRouter",
    "LinearRouter",
    "Pool",
    "Router",
    "RouterSettings",
    "SparsegenRouter",
    "StaticRouter",
    "ThresholdRouter",
    "TopicRouter",
    "UniformRouter",
    "known_keys",
    "no_pooling",
]
