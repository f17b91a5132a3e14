"""One routing decision, and how the layers that share a router hand it on."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from topiclora_cli.adapters.context import RoutingContext
from topiclora_cli.adapters.dispatch import Dispatch, dispatch
from topiclora_cli.errors import TopicLoraError


@dataclass
class Routing:
    """One routing decision: gates (..., E + S) in float32, and the LoRA scaling.

    Of the E routed experts' gates k at most are above zero; those of the S shared ones stand behind them.
    """

    gates: Tensor
    k: int
    scaling: float
    shared: int = 0
    scaled: Tensor = field(init=False)
    _spread: dict[tuple[int, torch.dtype, bool], Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.scaled = self.gates if self.scaling == 1 else self.gates * self.scaling

    @property
    def routed(self) -> int:
        """E."""
        return self.gates.shape[-1] - self.shared

    @property
    def scaled_shared(self) -> Tensor:
        """The shared experts' gates (..., S), with the LoRA scaling."""
        return self.scaled[..., self.routed :]

    def spread(self, rank: int, dtype: torch.dtype) -> Tensor:
        """The scaled gates, each r times, (T, (E + S)*r): made once for all layers that share the decision."""
        key = rank, dtype, torch.is_grad_enabled()
        if (factors := self._spread.get(key)) is None:
            gates = self.scaled.to(dtype).unsqueeze(-1)
            factors = gates.expand(*gates.shape[:-1], rank).reshape(-1, gates.shape[-2] * rank)
            self._spread[key] = factors
        return factors

    @cached_property
    def plan(self) -> Dispatch:
        """The active routed experts sorted, made once for all the layers that share the decision."""
        routed = self.scaled[..., : self.routed].flatten(0, -2)
        weights, experts = routed.topk(self.k, dim=-1)
        return dispatch(experts, weights, self.routed, even=self.gates.device.type == "cpu")

    @property
    def chosen(self) -> tuple[Tensor, Tensor]:
        """Weights and indices of the k routed experts, (..., k) each."""
        weights, indices = self.gates[..., : self.routed].topk(self.k, dim=-1)
        return weights, indices

    def fit(self, shape: torch.Size, name: str) -> "Routing":
        """The same decision for a layer that reads the same tokens in another shape, rows flattened or with ones."""
        seen = self.gates.shape[:-1]
        if seen == shape:
            return self
        if [n for n in seen if n > 1] != [n for n in shape if n > 1] and shape != (seen.numel(),):
            raise TopicLoraError(
                f"{name} reads {tuple(shape)} rows, the layer whose router it shares {tuple(seen)}.",
                "Use router_scope: linear for this model.",
            )
        return replace(self, gates=self.gates.reshape(*shape, -1))


class RoutingGroup:
    """Hands one routing decision from the member that made it to the others of the same forward pass.

    It lies in their model's context meanwhile, so that a thread sees its own passes alone.
    """

    def __init__(self, size: int, context: RoutingContext) -> None:
        self.size = size
        self._context = context

    def put(self, routing: Routing) -> None:
        """Called by the owner of the router."""
        if self.size > 1:
            self._context.here.decisions[self] = routing, self.size - 1

    def take(self, name: str) -> Routing:
        """Called by the others; after the last of them nothing is held."""
        decisions = self._context.here.decisions
        if self not in decisions:
            raise TopicLoraError(
                f"{name} runs before the layer whose router it shares.", "Use router_scope: linear for this model."
            )
        routing: Routing
        routing, left = decisions[self]
        if left > 1:
            decisions[self] = routing, left - 1
        else:
            del decisions[self]
        return routing
