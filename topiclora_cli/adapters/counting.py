"""What an adapter adds to a model: parameters in all and per token, module by module, and what a budget asks for."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from topiclora_cli.adapters.moe_blocks import MoeBlock, base_name, moe_blocks
from topiclora_cli.adapters.tuner import Described, RoutedTunerLayer

_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}


@runtime_checkable
class RoutedLayer(Protocol):
    """What a layer class of ours says of its adapters, so that they can be counted without knowing the class."""

    def idle_parameters(self, adapter_name: str) -> int:
        """Trainable parameters that take no part in one token's forward pass; 0 for an adapter it does not carry."""

    def describe(self, adapter_name: str) -> Described:
        """Its experts, their rank and its router."""


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

    With top-k that is k experts; routers that choose a varying number count every expert. Of adapters on a sparse
    base's experts it is those on the experts that the base chooses.
    """
    total = _trainable(model)
    routed = [module for module in model.modules() if isinstance(module, RoutedLayer)]
    idle = sum(layer.idle_parameters(name) for layer in routed for name in model.active_adapters)
    return total, total - idle - sum(_idle_on_experts(block) for block in moe_blocks(model))


def base_parameters(model: nn.Module) -> int:
    """Parameters of a model without adapters, also of one whose weights are packed in 4 bits."""
    if isinstance(model, PreTrainedModel):
        return model.num_parameters()
    return sum(parameter.numel() for parameter in model.parameters())


def activated_base_parameters(model: nn.Module) -> int:
    """Parameters of a model without adapters that take part in one token: k of N experts, embeddings, head, the rest.

    Works on an empty model (meta device), too.
    """
    total = base_parameters(model)
    experts = ((block, sum(p.numel() for p in block.experts.parameters())) for block in moe_blocks(model))
    return total - sum(round(block.idle_share * size) for block, size in experts)


def adapted_modules(model: PeftModel) -> list[Adapted]:
    """The adapted modules, grouped by the end of their names without numbers, and by their shape."""
    groups: dict[tuple[str, str], list[BaseTunerLayer]] = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and isinstance(module.get_base_layer(), nn.Module):
            parts = base_name(name).split(".")
            if isinstance(module, ParamWrapper) and not isinstance(module.get_base_layer(), nn.Linear):
                parts.append(module.parameter_name)
            ending = ".".join(part for part in parts[-2:] if not part.isdecimal())
            groups.setdefault((ending, _shape(module)), []).append(module)
    adapter = model.active_adapters[0]
    rows = []
    for (name, shape), modules in groups.items():
        experts, ranks, routers, shared = zip(*(_describe(module, adapter) for module in modules), strict=True)
        rows.append(
            Adapted(
                name=name,
                count=len(modules),
                shape=shape,
                experts=_span(experts) + (f" + {_span(shared)} shared" if any(shared) else ""),
                rank=_span(ranks),
                router=", ".join(sorted(set(routers) - {"-"})) or "-",
                parameters=sum(_own_parameters(module) for module in modules),
            )
        )
    return rows


def parse_budget(text: str, base: nn.Module) -> tuple[str, int]:
    """`total=4.2M` -> ("total", 4200000); a share such as `activated=1%` is of the base's parameters of that kind."""
    kind, _, number = text.partition("=")
    if number.endswith("%"):
        of = base_parameters(base) if kind == "total" else activated_base_parameters(base)
        return kind, round(float(number[:-1]) / 100 * of)
    unit = _UNITS.get(number[-1].lower())
    return kind, round(float(number[:-1]) * unit if unit else float(number))


def rank_of(config: PeftConfig) -> int:
    """The rank that training ends with."""
    return getattr(config, "target_r", None) or config.r  # type: ignore[attr-defined, no-any-return]


def count_on(model: nn.Module, config: PeftConfig) -> tuple[int, int]:
    """`count_parameters` of a configuration on an empty copy of the model, which itself stays as it is."""
    with torch.device("meta"):
        return count_parameters(get_peft_model(empty_copy(model), copy.deepcopy(config)))  # type: ignore[arg-type]


def plain_rank_on(model: nn.Module, config: PeftConfig) -> float:
    """Rank of the plain LoRA on the same layers that has as many parameters as all experts of a configuration of ours.

    Routers are not counted. The model stays as it is.
    """
    with torch.device("meta"):
        adapted = get_peft_model(empty_copy(model), copy.deepcopy(config))  # type: ignore[arg-type]
    layers = [module for module in adapted.modules() if isinstance(module, RoutedTunerLayer)]
    experts = sum(layer.expert_parameters(name) for layer in layers for name in adapted.active_adapters)
    return experts / sum(layer.in_features + layer.out_features for layer in layers)


def empty_copy(model: nn.Module) -> nn.Module:
    """The model's structure without storage, on the meta device."""
    memo = {
        id(tensor): torch.nn.Parameter(tensor.to("meta"), requires_grad=False)
        for tensor in [*model.parameters(), *model.buffers()]
    }
    return copy.deepcopy(model, memo)


def _idle_on_experts(block: MoeBlock) -> int:
    experts: nn.Module = block.module.experts  # type: ignore[assignment]
    # A layer of ours has counted for itself.
    ours = sum(_trainable(module) for module in experts.modules() if isinstance(module, RoutedLayer))
    return round(block.idle_share * (_trainable(experts) - ours))


def _describe(module: BaseTunerLayer, adapter: str) -> Described:
    if isinstance(module, RoutedLayer):
        return module.describe(adapter)
    ranks = getattr(module, "r", {})
    rank = ranks.get(adapter, 0) if isinstance(ranks, dict) else 0
    return Described(module.num_experts if isinstance(module, ParamWrapper) else 1, rank, "-")


def _shape(module: BaseTunerLayer) -> str:
    # A layer around a whole block need not have one input and one output size.
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return " -> ".join(str(size) for size in sizes if size is not None)


def _own_parameters(module: Any) -> int:
    # What a layer is put around may be adapted itself, and has a row of its own then.
    return _trainable(module) - _trainable(module.base_layer)


def _trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
