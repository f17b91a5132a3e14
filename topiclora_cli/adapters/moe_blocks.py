"""Finds the sparse-MoE blocks of transformers models by their shape, so that no class names are needed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from topiclora_cli.errors import TopicLoraError

_MAIN_ROUTERS = ("gate", "router")
_ROUTERS = (*_MAIN_ROUTERS, "shared_expert_gate")


@dataclass(frozen=True)
class MoeBlock:
    """A sparse-MoE block: a token passes through `top_k` of its `num_experts` experts.

    name: in the base model, without the layers that peft puts around modules. module: the block itself.
    """

    name: str
    module: nn.Module
    router_name: str
    num_experts: int
    top_k: int

    @property
    def router(self) -> nn.Module:
        """The base model's router, without what peft put around it."""
        return unwrapped(getattr(self.module, self.router_name))

    @property
    def experts(self) -> nn.Module:
        """The base model's experts, without what peft put around them."""
        return unwrapped(self.module.experts)  # type: ignore[arg-type]

    @property
    def idle_share(self) -> float:
        """The share of the experts that one token leaves out."""
        return 1 - self.top_k / self.num_experts


def moe_blocks(model: nn.Module) -> list[MoeBlock]:
    """Every module with `experts` and a `gate` or `router`, in the model's order; adapters on the model do not matter.

    Where neither router, block nor configuration says how many experts are chosen, all of them count.
    """
    blocks = []
    for name, module in _with_experts(model):
        router_name = next((key for key in _MAIN_ROUTERS if isinstance(getattr(module, key, None), nn.Module)), None)
        if router_name is None:
            continue
        router, experts = unwrapped(getattr(module, router_name)), unwrapped(module.experts)  # type: ignore[arg-type]
        size = _num_experts(experts)
        chosen = (getattr(router, "top_k", None), getattr(module, "top_k", None), _experts_per_token(model), size)
        top_k = next(number for number in chosen if isinstance(number, int))
        blocks.append(MoeBlock(name, module, router_name, size, top_k))
    return blocks


def require_moe_blocks(model: nn.Module) -> list[MoeBlock]:
    """`moe_blocks`, of which there must be one; raises TopicLoraError naming the model's type otherwise."""
    blocks = moe_blocks(model)
    if not blocks:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise TopicLoraError(
            f"The base model ({kind}) has no mixture-of-experts block.",
            "The method is for mixture-of-experts models: OLMoE, Mixtral, Qwen3-MoE, GPT-OSS and the like.",
        )
    return blocks


def base_routers(model: nn.Module) -> set[str]:
    """Names of the base model's own routing modules, as `parent.child` where there is a parent: `mlp.gate`.

    A linear layer within a module that is called a router is one, whatever the block around it: `router.layer`.
    """
    beside_experts = {
        f"{name.rpartition('.')[2]}.{child}".lstrip(".")
        for name, module in _with_experts(model)
        for child in _ROUTERS
        if isinstance(getattr(module, child, None), nn.Module)
    }
    parts = (name.split(".") for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return beside_experts | {".".join(names[-2:]) for names in parts if names[-2:-1] and names[-2] in _MAIN_ROUTERS}


def exclude_base_routers(config: Any, model: nn.Module) -> None:
    """Have `target_modules: all-linear` of a peft configuration leave the base model's routers alone."""
    if not isinstance(config.target_modules, str) or config.target_modules.lower() != "all-linear":
        return
    routers = base_routers(model)
    if not routers:
        return
    if isinstance(config.exclude_modules, str):
        alternatives = "|".join(rf".*\.{re.escape(name)}" for name in sorted(routers))
        config.exclude_modules = f"(?:{config.exclude_modules})|{alternatives}"
    else:
        config.exclude_modules = set(config.exclude_modules or ()) | routers


def unwrapped(module: nn.Module) -> nn.Module:
    """The base model's module under any number of peft's layers."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def base_name(name: str) -> str:
    """A module's name before peft put layers around it or around its parents."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def _with_experts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(getattr(module, "experts", None), nn.Module) and not isinstance(module, BaseTunerLayer):
            yield base_name(name), module


def _num_experts(experts: nn.Module) -> int:
    if isinstance(experts, (nn.ModuleList, nn.ModuleDict)):
        return len(experts)
    if isinstance(number := getattr(experts, "num_experts", None), int):
        return number
    fused = [parameter.shape[0] for parameter in experts.parameters() if parameter.ndim == 3]
    return min(fused, default=1)


def _experts_per_token(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    return None if config is None else getattr(config.get_text_config(), "num_experts_per_tok", None)
