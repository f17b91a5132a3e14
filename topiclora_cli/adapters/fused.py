"""The base linear and its mixture of experts as one autograd function.

Plain autograd runs the adapter beside the base layer: it scales and adds a full-width delta forward, and sums two
full-width gradients backward. Here the delta is accumulated straight into the base layer's output (`addmm_`), the
input's gradient likewise, the scaling rides on the gates, and only x, A x and the gates are kept: the gated product is
cheap and made again. Same function, fewer passes over memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _FusedMixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, gates: Tensor, lora_a: Tensor, lora_b: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        out = F.linear(rows, weight, bias)
        hidden = F.linear(rows, lora_a.flatten(0, 1))  # (T, E*r), or (T, r) when A is shared
        out.addmm_(_gated(hidden, gates, lora_b.shape[1]), lora_b.flatten(0, 1))
        ctx.save_for_backward(rows, gates, hidden, lora_a, lora_b, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, gates, hidden, lora_a, lora_b, weight = ctx.saved_tensors
        experts, rank, _ = lora_b.shape
        grad_b = (_gated(hidden, gates, rank).T @ grad).view_as(lora_b)
        grad_gated = (grad @ lora_b.flatten(0, 1).T).unflatten(-1, (experts, rank))
        grad_gates = None
        if ctx.needs_input_grad[1]:
            grad_gates = (grad_gated * hidden.unflatten(-1, (-1, rank))).sum(-1, dtype=gates.dtype)
        grad_hidden = grad_gated.mul_(gates.to(rows.dtype).unsqueeze(-1))
        grad_hidden = grad_hidden.sum(1) if lora_a.shape[0] < experts else grad_hidden.flatten(1)
        grad_a = (grad_hidden.T @ rows).view_as(lora_a)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_hidden, lora_a.flatten(0, 1))
        return grad_x, grad_gates, grad_a, grad_b, None, None


def fused_mixture(x: Tensor, gates: Tensor, lora_a: Tensor, lora_b: Tensor, base: nn.Linear) -> Tensor:
    """W x + b + sum_e g_e B_e A_e x, shape (..., d_out), in autocast's precision where that is on.

    x (..., d_in); gates (..., E), already multiplied by the LoRA scaling; lora_a (E or 1, r, d_in); lora_b
    (E, r, d_out); the base's weight and bias get no gradient. Cannot be differentiated twice.
    """
    # Reshaping stands outside the function: a view made inside could not be changed in place by the model around it.
    rows, row_gates = x.reshape(-1, x.shape[-1]), gates.reshape(-1, gates.shape[-1])
    tensors: tuple[Any, ...] = (rows, lora_a, lora_b, base.weight, base.bias)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        # So do the casts, so that autograd returns each gradient in its tensor's own precision.
        dtype = torch.get_autocast_dtype(device)
        tensors = tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)
    with torch.autocast(device, enabled=False):
        out = _FusedMixture.apply(tensors[0], row_gates, *tensors[1:])
    return out.view(*x.shape[:-1], out.shape[-1])  # type: ignore[no-any-return]


def can_fuse(x: Tensor, lora_a: Tensor, base: nn.Module) -> bool:
    """Whether `base` is a plain frozen linear layer, with nothing attached, in the precision of the adapter."""
    if type(base) is not nn.Linear or torch.compiler.is_compiling():
        return False
    if type(base.weight) not in (nn.Parameter, Tensor):  # a quantised or a distributed one
        return False
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return False
    if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks:
        return False
    same = base.weight.dtype == lora_a.dtype == x.dtype
    return base.weight.is_floating_point() and (same or torch.is_autocast_enabled(x.device.type))


def _gated(hidden: Tensor, gates: Tensor, rank: int) -> Tensor:
    grouped = hidden.unflatten(-1, (-1, rank))  # (T, E or 1, r)
    return (grouped * gates.to(hidden.dtype).unsqueeze(-1)).flatten(1)
