"""What stays in float32 whatever the model around it computes in: routing is a choice, and rounding changes choices."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_NOTHING = nullcontext()
_FULL = (torch.float32, torch.float64)


def precise(x: Tensor) -> Tensor:
    """x in float32, or left in float64."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A block in which autocast leaves x's device alone."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _NOTHING
    return torch.autocast(device, enabled=False) if torch.compiler.is_compiling() else _Off(device)


class _Off(AbstractContextManager[None]):
    """What `torch.autocast(device, enabled=False)` does inside of another, without its checks: it is entered at every
    layer and token."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> None:
        torch.set_autocast_enabled(self._device, False)

    def __exit__(self, *_: object) -> None:
        torch.set_autocast_enabled(self._device, True)


def computes_precisely(x: Tensor) -> bool:
    """Whether a matrix product of x would be computed in float32 or float64 here."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return dtype in _FULL


class _Product(torch.autograd.Function):
    """x in 16 bits (..., d) times weight (n, d) transposed, in float32; x is kept as it came, not in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x.float(), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        with no_autocast(grad):
            grad_x = (grad @ weight).to(x.dtype) if ctx.needs_input_grad[0] else None
            return grad_x, grad.flatten(0, -2).T @ x.flatten(0, -2).float()


def precise_product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., d) times weight (n, d) transposed, (..., n), in float32 even under autocast; in float64 if x is."""
    with no_autocast(x):
        # Not from the left, which is faster: its digits depend on where in memory the weight lies.
        if x.dtype in _FULL or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            x = precise(x)
            return F.linear(x, weight.to(x.dtype))
        return _Product.apply(x, precise(weight))  # type: ignore[no-any-return]
