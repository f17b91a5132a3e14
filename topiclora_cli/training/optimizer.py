"""Which trained parameters take which learning rate and weight decay."""

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

_ROUTER_PARAMETERS = ("topiclora_router", "perft_router")
_B_PARAMETERS = ("lora_B", "topiclora_B", "perft_B")


def parameter_kind(name: str) -> str:
    """Which learning rate a trainable parameter takes: "router", "b" (an expert's second factor) or "a"."""
    if any(part in name for part in _ROUTER_PARAMETERS):
        return "router"
    return "b" if any(part in name for part in _B_PARAMETERS) else "a"


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    decayed: Collection[str],
    rates: dict[str, float | None],
) -> list[dict[str, Any]]:
    """An optimizer's parameter groups, by learning rate and by decay.

    rates: of each kind of parameters, None for the optimizer's own. decayed: the names to which transformers would
    apply weight_decay, all but biases and norms. Routers have none whatever their rate: it would pull them towards even
    routing, which is a loss's to do.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        kind = parameter_kind(name)
        decays = name in decayed and kind != "router"
        group = groups.setdefault((kind, decays), {"params": [], "weight_decay": weight_decay if decays else 0.0})
        if rates[kind] is not None:
            group["lr"] = rates[kind]
        group["params"].append(parameter)
    return list(groups.values())
