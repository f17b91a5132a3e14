"""From a method's name to the peft configuration that trains it."""

from collections.abc import Collection
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel
from torch import nn

from topiclora_cli.adapters.topiclora import TopicLoraConfig, TopicLoraLayer
from topiclora_cli.errors import TopicLoraError, nearest

_SHARED = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
)
_MIXTURE = ("num_experts", "top_k", "router", "router_temperature", "train_keys", "shared_a")
METHODS = {"topiclora": (TopicLoraConfig, _SHARED + _MIXTURE), "lora": (LoraConfig, _SHARED)}


def make_config(method: str, settings: dict[str, Any], **extra: Any) -> PeftConfig:
    """The configuration of `method` from a recipe's adapter settings, of which it takes those it knows.

    Raises TopicLoraError for an unknown method.
    """
    if method not in METHODS:
        raise TopicLoraError(f"adapter.method {method!r} is unknown.", nearest(method, METHODS))
    config_class, keys = METHODS[method]
    return config_class(task_type="CAUSAL_LM", **{key: settings[key] for key in keys}, **extra)


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Trainable parameters in all, and those that take part in one token's forward pass (top-k counts k experts)."""
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    idle = sum(_idle_parameters(module, model.active_adapters) for module in model.modules())
    return total, total - idle


def _idle_parameters(module: nn.Module, adapters: Collection[str]) -> int:
    if not isinstance(module, TopicLoraLayer):
        return 0
    idle = 0
    for name in adapters:
        config = module.topiclora_config.get(name)
        if config is None or config.top_k is None:
            continue
        share = 1 - config.top_k / config.num_experts
        experts = [module.topiclora_B[name]] + ([] if config.shared_a else [module.topiclora_A[name]])
        idle += round(share * sum(p.numel() for p in experts))
    return idle
