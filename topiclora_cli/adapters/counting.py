"""What an adapter adds to a model: parameters in all and per token, module by module, and the rank for a budget."""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError

_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}


@dataclass(frozen=True)
class Adapted:
    """Adapted modules of one name and shape: how many, what they carry, trainable parameters of all together."""

    name: str
    count: int
    shape: str
    experts: str
    rank: str
    router: str
    parameters: int


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Trainable parameters in all, and those that take part in one token's forward pass.

    With top-k that is k experts; routers that choose a varying number count every expert.
    """
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    idle = sum(_idle_parameters(module, model.active_adapters) for module in model.modules())
    return total, total - idle


def adapted_modules(model: PeftModel) -> list[Adapted]:
    """The adapted modules, grouped by the end of their names and their shape."""
    groups: dict[tuple[str, str], list[BaseTunerLayer]] = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and isinstance(base := module.get_base_layer(), nn.Module):
            shape = " -> ".join(str(size) for size in _features(base))
            groups.setdefault((".".join(name.split(".")[-2:]), shape), []).append(module)
    adapter = model.active_adapters[0]
    return [
        Adapted(
            name=name,
            count=len(modules),
            shape=shape,
            experts=_span([_config_value(m, adapter, "num_experts", 1) for m in modules]),
            rank=_span([_config_value(m, adapter, "r", 0) for m in modules]),
            router=_router(modules, adapter),
            parameters=sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad),  # type: ignore[attr-defined]
        )
        for (name, shape), modules in groups.items()
    ]


def parse_budget(text: str) -> tuple[str, int]:
    """`total=4.2M` -> ("total", 4200000)."""
    kind, _, number = text.partition("=")
    unit = _UNITS.get(number[-1].lower())
    return kind, round(float(number[:-1]) * unit if unit else float(number))


def rank_for_budget(budget: str, model: nn.Module, make: Callable[[int], PeftConfig]) -> int:
    """The rank whose trainable parameters come nearest to the budget, for configurations made by `make(rank)`.

    Parameters are a constant (routers) plus a multiple of the rank, so two counts on an empty copy of the model decide
    it. Raises TopicLoraError where even rank 1 exceeds the budget by a tenth.
    """
    kind, wanted = parse_budget(budget)
    which = ("total", "activated").index(kind)
    low, high = (count_on(model, make(rank))[which] for rank in (4, 8))
    slope = (high - low) / 4
    rank = max(1, round((wanted - (low - 4 * slope)) / slope))
    if (least := low - 3 * slope) > 1.1 * wanted:
        raise TopicLoraError(
            f"adapter.budget: even rank 1 has {round(least):,} {kind} parameters, more than {wanted:,}.",
            "Raise the budget, adapt fewer modules, or share routers (adapter.router_scope: layer).",
        )
    return rank


def rank_of(config: PeftConfig) -> int:
    """The rank that training ends with."""
    return getattr(config, "target_r", None) or config.r  # type: ignore[attr-defined, no-any-return]


def count_on(model: nn.Module, config: PeftConfig) -> tuple[int, int]:
    """`count_parameters` of a configuration on an empty copy of the model, which itself stays as it is."""
    with torch.device("meta"):
        return count_parameters(get_peft_model(empty_copy(model), copy.deepcopy(config)))  # type: ignore[arg-type]


def empty_copy(model: nn.Module) -> nn.Module:
    """The model's structure without storage, on the meta device."""
    memo = {
        id(tensor): torch.nn.Parameter(tensor.to("meta"), requires_grad=False)
        for tensor in [*model.parameters(), *model.buffers()]
    }
    return copy.deepcopy(model, memo)


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
        idle += round(share * sum(p.numel() for p in experts if p.requires_grad))
    return idle


def _config_value(module: BaseTunerLayer, adapter: str, key: str, default: int) -> int:
    if isinstance(module, TopicLoraLayer):
        return getattr(module.topiclora_config[adapter], key)  # type: ignore[no-any-return]
    value = getattr(module, key, {})
    return value.get(adapter, default) if isinstance(value, dict) else default


def _router(modules: list[BaseTunerLayer], adapter: str) -> str:
    kinds = {
        "-" if m.topiclora_config[adapter].num_experts == 1 else m.topiclora_config[adapter].router
        for m in modules
        if isinstance(m, TopicLoraLayer)
    }
    return ", ".join(sorted(kinds)) or "-"


def _features(base: nn.Module) -> tuple[int, ...]:
    weight = getattr(base, "weight", None)
    if hasattr(base, "in_features"):
        return base.in_features, base.out_features  # type: ignore[return-value]
    return tuple(weight.shape) if weight is not None else ()


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
