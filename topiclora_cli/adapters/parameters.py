"""What the parameters of an adapted model are to an optimizer, as the layers that hold them declare it."""

from typing import Literal

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from topiclora_cli.adapters.tuner import RoutedTunerLayer

Kind = Literal["router", "a", "b"]
# peft's layers declare nothing of the kind; LoRA+ is about these (arXiv 2402.12354).
_SECOND_IN_PEFT = "lora_B"


def parameter_kinds(model: nn.Module) -> dict[nn.Parameter, Kind]:
    """Of every parameter in adapted layers whether it is a router's, an expert's second factor ("b") or another ("a").

    Whatever else a model trains is "a" as well, and is not in here.
    """
    kinds: dict[nn.Parameter, Kind] = {}
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        router, second = None, _SECOND_IN_PEFT
        if isinstance(layer, RoutedTunerLayer):
            router, second = layer.router_container, layer.second_factors
        for container in layer.adapter_layer_names:
            kind: Kind = "router" if container == router else "b" if container == second else "a"
            held = getattr(layer, container, None)
            if isinstance(held, nn.Module):
                kinds |= dict.fromkeys(held.parameters(), kind)
    return kinds
