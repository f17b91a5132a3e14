"""What a base model's own router decided for the tokens of the current forward pass."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.per_thread import PerThread
from topiclora_cli.errors import TopicLoraError


class BaseRouting:
    """Notes the indices and weights with which a block calls its experts, apart for each thread.

    Raises TopicLoraError for experts that are not called with them.
    """

    def __init__(self, experts: nn.Module, name: str) -> None:
        self.name = name
        self._signature = inspect.signature(type(experts).forward)
        parameters = list(self._signature.parameters)
        self._index = next((p for p in parameters if "ind" in p), "")
        self._weight = next((p for p in parameters if "weight" in p), "")
        if not (self._index and self._weight):
            raise TopicLoraError(
                f"{name}: {type(experts).__name__} is not called with its router's indices and weights.",
                "Use variant: routed with router_weight_source: own, dense or shared.",
            )
        self._noted: PerThread[tuple[Tensor, Tensor]] = PerThread()
        self._handle = experts.register_forward_pre_hook(self._note, with_kwargs=True)

    def decision(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Weights and indices of the tokens' experts, (*shape, k) each, of the forward pass under way."""
        noted = self._noted.get()
        if noted is None:
            raise TopicLoraError(
                f"{self.name} ran without calling its experts, so its routing cannot be followed.",
                "Use variant: routed with router_weight_source: own, or no kernel that replaces the whole block.",
            )
        weights, indices = noted
        slots = weights.shape[-1]  # spelt out, since no tokens are no error
        return weights.reshape(*shape, slots), indices.reshape(*shape, slots)

    def forget(self) -> None:
        """Hold nothing between forward passes."""
        self._noted.set(None)

    def remove(self) -> None:
        """Stop watching the experts."""
        self._handle.remove()

    def _note(self, experts: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = self._signature.bind(experts, *args, **kwargs).arguments
        self._noted.set((arguments[self._weight], arguments[self._index]))
