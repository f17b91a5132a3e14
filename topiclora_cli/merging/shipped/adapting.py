"""Routed adapters beside the layers of a model, as plain torch: hooks add to what the frozen layers return.

Beside a linear layer, E experts of rank r under the gates g of each token, and S more for every token:

    y = W x + s * sum_e g_e(x) B_e A_e x

Beside a mixture-of-experts block, adapters around the whole of it (PERFT, arXiv 2508.02587), where a SiLU may stand
between their two factors.
"""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choosing import Chooser

NAME = "routed"  # of an adapter's module within the layer that it is beside


def add_adapters(model: nn.Module, settings: dict[str, Any]) -> None:
    """Put an adapter, still without values, beside every layer that `settings["layers"]` names.

    Each has the settings that `settings["all"]` gives, and its own. `follows` names the layer whose decision it takes.
    """
    adapters: dict[str, Adapter] = {}
    for name, own in settings["layers"].items():
        layer: Any = model.get_submodule(name)
        adapters[name] = Adapter({**settings["all"], **own})
        layer.add_module(NAME, adapters[name])
        layer.register_forward_hook(_add_to_output)
        if adapters[name].settings["watches"]:
            layer.experts.register_forward_pre_hook(adapters[name].watch, with_kwargs=True)
    for adapter in adapters.values():
        leader = adapter.settings["follows"]
        adapter.__dict__["leader"] = adapters[leader] if leader else None  # no child: its weights are the other's


class Adapter(nn.Module):
    """A (E + S, r, d_in), or (1, r, d_in) where all share it, B (E + S, r, d_out), and what chooses among them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        experts, rank = settings["experts"] + settings["shared"], settings["rank"]
        self.A = _empty(1 if settings["one_a"] else experts, rank, settings["reads"])
        self.B = _empty(experts, rank, settings["writes"])
        if settings["start"]:
            self.start_A = _empty(settings["start"], settings["reads"])
            self.start_B = _empty(settings["writes"], settings["start"])
        if settings["chooser"]:
            self.chooser = Chooser(settings["chooser"], settings["reads"])
        self.__dict__["decision"] = self.__dict__["base_decision"] = None

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the output of the layer that reads x (..., d_in): (..., d_out)."""
        x = x if torch.is_autocast_enabled(x.device.type) else x.to(self.A.dtype)
        hidden = F.linear(x, self.A.flatten(0, 1)).unflatten(-1, (-1, self.settings["rank"]))
        if self.settings["silu"]:
            hidden = F.silu(hidden)
        gated = hidden * (self.gates(x) * self.settings["scale"]).to(hidden.dtype).unsqueeze(-1)
        added = gated.flatten(-2) @ self.B.flatten(0, 1).to(gated.dtype)
        if self.settings["start"]:
            added = added - F.linear(F.linear(x, self.start_A), self.start_B)
        return added

    def gates(self, x: Tensor) -> Tensor:
        """The gates (..., E + S) of each token; those of shared experts last."""
        leader = self.__dict__["leader"]
        if leader is not None:
            return leader.__dict__["decision"].reshape(*x.shape[:-1], -1)  # type: ignore[no-any-return]
        experts, shared = self.settings["experts"], self.settings["shared"]
        if self.settings["watches"]:
            gates = self._with_base_weights(x)
        elif self.settings["chooser"]:
            gates = self.chooser(x, self.A.flatten(0, 1))
        else:  # the plain sum of all
            gates = torch.ones(*x.shape[:-1], experts, device=x.device)
        if self.settings["kept"]:
            weights, indices = gates.topk(self.settings["kept"], dim=-1)
            weights = weights / weights.sum(-1, keepdim=True) if self.settings["renormalise"] else weights
            gates = torch.zeros_like(gates).scatter(-1, indices, weights)
        gates = F.pad(gates, (0, experts + shared - gates.shape[-1]), value=1.0)
        self.__dict__["decision"] = gates
        return gates

    def watch(self, experts: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the indices and weights with which the frozen block calls its experts."""
        signature = inspect.signature(type(experts).forward)
        given = signature.bind(experts, *args, **kwargs).arguments
        index, weight = (next(given[p] for p in given if part in p) for part in ("ind", "weight"))
        self.__dict__["base_decision"] = weight, index

    def _with_base_weights(self, x: Tensor) -> Tensor:
        """The frozen router's choice, or its largest weights for the adapters that the own router chooses."""
        weights, indices = (part.reshape(*x.shape[:-1], -1) for part in self.__dict__["base_decision"])
        if self.settings["chooser"]:
            top = self.settings["slots"]
            indices = self.chooser(x, self.A.flatten(0, 1)).topk(top, dim=-1).indices
            weights = weights.topk(top, dim=-1).values
        return weights.new_zeros(*x.shape[:-1], self.settings["experts"]).scatter(-1, indices, weights)


def _add_to_output(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """The hook on a layer: its output, or the first of several, with what its adapter adds."""
    first = output[0] if isinstance(output, tuple) else output
    added = getattr(layer, NAME)(args[0]).to(first.dtype).view(first.shape)
    return (first + added, *output[1:]) if isinstance(output, tuple) else first + added


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)
