"""Which trained parameters take which learning rate and weight decay."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from topiclora_cli.adapters.parameters import parameter_kinds


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    decayed: Collection[str],
    rates: Mapping[str, float | None],
) -> list[dict[str, Any]]:
    """An optimizer's groups of a model's trained parameters, by learning rate and by decay.

    rates: of each kind of parameters, None for the optimizer's own. decayed: the names to which transformers would
    apply weight_decay, all but biases and norms. Routers have none whatever their rate: it would pull them towards even
    routing, which is a loss's to do.
    """
    kinds = parameter_kinds(model)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = kinds.get(parameter, "a")
        decays = name in decayed and kind != "router"
        group = groups.setdefault((kind, decays), {"params": [], "weight_decay": weight_decay if decays else 0.0})
        if rates[kind] is not None:
            group["lr"] = rates[kind]
        group["params"].append(parameter)
    return list(groups.values())


def trained_parts(model: nn.Module) -> dict[str, list[Tensor]]:
    """A model's trained parameters, those of routers and those of experts and whatever else apart."""
    kinds = parameter_kinds(model)
    parts: dict[str, list[Tensor]] = {"experts": [], "router": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parts["router" if kinds.get(parameter) == "router" else "experts"].append(parameter)
    return parts
