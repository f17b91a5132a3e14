"""Weights that are known not to change for a while: what a forward pass makes of them is made once.

At one token a time it is rounding the experts to the precision of the model, and the router's keys times its weight,
that takes a good part of the time that an adapter costs. Nothing of a result changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.context import Within
from topiclora_cli.adapters.tuner import contexts_of


class Held(NamedTuple):
    """What a layer with one adapter multiplies with: flat A (E*r or r, d_in) and B (E*r, d_out) in the precision in
    which it computes; its router, where it owns one, and that one's projection (n, d_in), where it has one."""

    lora_a: Tensor
    lora_b: Tensor
    router: nn.Module | None
    projection: Tensor | None


@contextmanager
def unchanging_weights(model: nn.Module) -> Iterator[None]:
    """A block in which the weights of the model's adapters do not change, wherever this thread computes without
    gradients.

    Adapters may be switched, and routing be watched or interfered with. It holds a copy of the experts where they are
    computed in another precision than they are kept in. `generate` is such a block.
    """
    contexts = contexts_of(model)
    outer = [context.here.held for context in contexts]
    with Within(contexts, "held", [{} if held is None else held for held in outer]):
        yield


def computing_in(x: Tensor) -> torch.dtype:
    """The precision that autocast, if it is on, or x itself has matrix products computed in."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
