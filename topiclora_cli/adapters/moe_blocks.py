"""Finds the sparse-MoE blocks of transformers models by their shape, so that no class names are needed."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from topiclora_cli.errors import TopicLoraError

_ROUTER_NAMES = ("gate", "router", "shared_expert_gate")


def base_routers(model: nn.Module) -> set[str]:
    """Names of the base model's own routing modules, as `parent.child` where there is a parent: `mlp.gate`."""
    found = set()
    for name, module in model.named_modules():
        if not hasattr(module, "experts"):
            continue
        parent = name.rpartition(".")[2]
        found |= {
            f"{parent}.{child}".lstrip(".")
            for child in _ROUTER_NAMES
            if isinstance(getattr(module, child, None), nn.Module)
        }
    return found


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


@dataclass(frozen=True)
class MoeBlock:
    """A sparse-MoE block by its name in the model, without peft's wrappers: N experts, of which top_k act per token."""

    name: str
    module: nn.Module
    num_experts: int
    top_k: int


def require_moe_blocks(model: nn.Module) -> list[MoeBlock]:
    found = []
    config: Any = model.config
    for name, module in model.named_modules():
        router = getattr(module, "gate", None) or getattr(module, "router", None)
        experts = getattr(module, "experts", None)
        if isinstance(experts, nn.Module) and isinstance(router, nn.Module):
            number: Any = experts.num_experts
            top_k = config.get_text_config().num_experts_per_tok
            found.append(MoeBlock(name.replace(".base_layer", ""), module, number, top_k))
    if not found:
        raise TopicLoraError("The model has no mixture-of-experts block.")
    return found
