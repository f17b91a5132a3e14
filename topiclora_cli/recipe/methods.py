"""The methods by name: what each adds to a recipe that does not say otherwise.

A method is a router, a sharing rule and a loss on one mixture layer, with the reference's hyperparameters; PERFT has a
layer of its own, and a few methods are peft's. What a recipe sets itself always wins. references.py says of each method
what it follows, and where ours is not the reference's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT = "topiclora"
SECTIONS = ("adapter", "loss", "train")
_TRAIN_2E4 = {"learning_rate": 2e-4}


@dataclass(frozen=True)
class Method:
    """A preset: the layer that carries it, and its recipe values by section; references.py says where it comes from.

    layer: our `mixture` of LoRA on linear layers, our `perft` beside a sparse base's experts, or peft's own by name.
    """

    layer: str = "mixture"
    adapter: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=lambda: dict(_TRAIN_2E4))

    def values(self, section: str) -> dict[str, Any]:
        """What the method puts into a section; without a topic prior of its own it trains without one."""
        own = dict(getattr(self, section))
        return {"kl": {"weight": 0.0}, **own} if section == "loss" else own

    @property
    def papers_scaling(self) -> str | None:
        """The law of scaling that the method's paper has, None where no paper says one or peft scales."""
        own = self.adapter.get("router") == "topic" or self.layer not in ("mixture", "perft")
        return None if own else self.adapter.get("scaling", "expert")


PLAIN = {"r": 8, "lora_alpha": 16.0}
_OWN_DROPOUT = {"lora_dropout": 0.05, "expert_dropout": "own"}
_LINEAR = {"router": "linear"}
# PERFT's large initial weights want small rates.
_TRAIN_1E5 = {"learning_rate": 1e-5}


def _as_transformers(weight: float) -> dict[str, Any]:
    """transformers' balance: over all layers' tokens together, top_k where routing is even."""
    return {"balance": {"weight": weight, "counts": "tokens"}, "reduce_routers": "pool"}


def _perft(variant: str, **adapter: Any) -> Method:
    """A variant of PERFT."""
    loss: dict[str, Any] = {"kl": {"weight": 0.1}} if adapter.get("router") == "topic" else {}
    if variant == "routed":
        loss |= _as_transformers(1e-2)
    return Method(
        "perft",
        {
            **(_LINEAR if variant == "routed" else {}),
            "variant": variant,
            "target_modules": "experts",
            "r": 16,
            "lora_alpha": 32.0,
            **_OWN_DROPOUT,
            # transformers' start for a linear layer, where the router is PERFT's own.
            "router_init": "normal",
            **adapter,
        },
        loss,
        _TRAIN_1E5,
    )


METHODS: dict[str, Method] = {
    "lora": Method("lora", PLAIN),
    "rslora": Method("lora", {**PLAIN, "use_rslora": True}),
    "dora": Method("lora", {**PLAIN, "use_dora": True}),
    "adalora": Method("adalora", PLAIN),
    "lora+": Method("lora", PLAIN, train={**_TRAIN_2E4, "loraplus_lr_ratio": 16.0}),
    "xlora": Method("xlora"),
    "lora-qv": Method(
        "lora", {**PLAIN, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}, train=_TRAIN_1E5
    ),
    "lora-router": Method("lora", {**PLAIN, "target_modules": "router"}, train=_TRAIN_1E5),
    "lora-experts": Method("lora", {**PLAIN, "target_modules": "experts"}, train=_TRAIN_1E5),
    "molora": Method(adapter={**_LINEAR, "num_experts": 8, "r": 8, "lora_alpha": 16.0}),
    "mola": Method(
        adapter={
            **_LINEAR,
            "experts_by_depth": [2, 4, 6, 8],
            "top_k": 2,
            "r": 8,
            "lora_alpha": 16.0,
            **_OWN_DROPOUT,
        },
        train={"learning_rate": 3e-4},
    ),
    "hydralora": Method(
        adapter={
            **_LINEAR,
            "shared_a": True,
            "num_experts": 4,
            "r": 4,
            "lora_alpha": 32.0,
            **_OWN_DROPOUT,
            "target_modules": "feed-forward",
        },
    ),
    "loramoe": Method(
        adapter={
            **_LINEAR,
            "num_experts": 8,
            "r": 4,
            "lora_alpha": 32.0,
            **_OWN_DROPOUT,
            "target_modules": "feed-forward",
        },
        loss={"local_balance": {"weight": 0.1}, "reduce_routers": "sum"},
    ),
    "adamole": Method(
        adapter={
            "router": "threshold",
            "num_experts": 8,
            "r": 4,
            "lora_alpha": 16.0,
            **_OWN_DROPOUT,
            "target_modules": "attention",
        },
        loss={"balance": {"weight": 1e-3, "counts": "tokens", "scores": "excess"}, "reduce_routers": "sum"},
        train={"learning_rate": 1e-4},
    ),
    "mixlora": Method(
        adapter={
            **_LINEAR,
            "router_scope": "block",
            "mixing": "ffn",
            "plain_modules": "attention",
            "num_experts": 8,
            "top_k": 2,
            "r": 16,
            "lora_alpha": 32.0,
            **_OWN_DROPOUT,
            "router_init": "normal",
        },
        loss=_as_transformers(1e-3),
    ),
    "hmora": Method(
        adapter={
            "router": "hierarchical",
            "router_scope": "group",
            "shared_a": True,
            "plain_modules": "outputs",
            "num_experts": 8,
            "top_k": 2,
            "r": 8,
            "lora_alpha": 8.0,
            "scaling": "sqrt",
            "lora_dropout": 0.1,
            "router_dropout": 0.1,
        },
        loss={"gjs": {"weight": 5e-3}, "reduce_routers": "sum"},
        train={"learning_rate": 5e-5, "loraplus_lr_ratio": 1.2},
    ),
    "gmoe": Method(
        adapter={
            "router": "graph",
            "router_scope": "block",
            "router_width": 256,
            "num_experts": 8,
            "top_k": 2,
            "r": 8,
            "lora_alpha": 4.0,
            "target_modules": "feed-forward",
        },
        loss={"poisson": {"weight": 5e-3}, "normal": {"weight": 8.0}},
    ),
    "samora": Method(
        adapter={
            "router": "cosine",
            "router_temperature": 0.8,
            "shared_a": True,
            "num_experts": 3,
            "r": 8,
            "lora_alpha": 8.0,
            "lora_dropout": 0.05,
            "router_dropout": 0.05,
            "target_modules": "attention",
        },
        loss={"orthogonal": {"weight": 1e-3}, "centre": {"weight": 1e-2}, "reduce_routers": "sum"},
    ),
    "ldmole": Method(
        adapter={
            "router": "sparsegen",
            "router_width": 32,
            "num_experts": 8,
            "r": 8,
            "lora_alpha": 16.0,
            "lora_dropout": 0.1,
            "router_dropout": 0.1,
        },
        loss={"balance": {"weight": 1.0, "scores": "gates"}},
        train={"learning_rate": 1e-4},
    ),
    "perft-r": _perft("routed", num_experts=8, top_k=2),
    "perft-e": _perft("embedded"),
    "perft-d": _perft("dense", num_experts=2),
    "perft-s": _perft("shared", num_experts=1),
    "topic-perft": _perft("routed", num_experts=8, top_k=2, router="topic", router_init="kaiming"),
    "topiclora": Method(
        # As a plain LoRA of rank 64, at twice its rank.
        adapter={"router": "topic", "num_experts": 8, "top_k": 2, "r": 8, "lora_alpha": 128.0, "scaling": "total"},
        loss={"kl": {"weight": 0.1}},
    ),
}
