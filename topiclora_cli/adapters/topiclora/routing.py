"""One routing decision, and how the layers that share a router hand it on."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from topiclora_cli.adapters.dispatch import Dispatch, dispatch
from topiclora_cli.adapters.per_thread import PerThread
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

    A thread sees its own passes alone. A copy starts without the decision of a pass that ended half-way.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: PerThread[tuple[Routing, int]] = PerThread()  # the decision, and how many are still to take it

    def put(self, routing: Routing) -> None:
        """Called by the owner of the router."""
        self._held.set((routing, self.size - 1) if self.size > 1 else None)

    def take(self, name: str) -> Routing:
        """Called by the others; after the last of them nothing is held."""
        held = self._held.get()
        if held is None:
            raise TopicLoraError(
                f"{name} runs before the layer whose router it shares.", "Use router_scope: linear for this model."
            )
        routing, left = held
        self._held.set((routing, left - 1) if left > 1 else None)
        return routing
