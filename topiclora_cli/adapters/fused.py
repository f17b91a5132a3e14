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
        ctx: Any, x: Tensor, gates: Tensor, lora_a: Tensor, lora_b: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        dtype = _compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1]).to(dtype)  # (T, d_in)
            row_gates = gates.reshape(-1, gates.shape[-1])  # (T, E)
            out = F.linear(rows, weight.to(dtype), None if bias is None else bias.to(dtype))
            hidden = rows @ lora_a.flatten(0, 1).to(dtype).T  # (T, E*r), or (T, r) when A is shared
            out.addmm_(_gated(hidden, row_gates, lora_b.shape[1]), lora_b.flatten(0, 1).to(dtype))
        ctx.save_for_backward(rows, row_gates, hidden, lora_a, lora_b, weight)
        ctx.shapes = (x.shape, x.dtype, gates.shape)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, gates, hidden, lora_a, lora_b, weight = ctx.saved_tensors
        x_shape, x_dtype, gates_shape = ctx.shapes
        experts, rank, _ = lora_b.shape
        a, b = lora_a.flatten(0, 1).to(rows.dtype), lora_b.flatten(0, 1).to(rows.dtype)
        with torch.autocast(rows.device.type, enabled=False):
            grad = grad.reshape(-1, grad.shape[-1]).to(rows.dtype)  # (T, d_out)
            grad_b = (_gated(hidden, gates, rank).T @ grad).view(lora_b.shape).to(lora_b.dtype)
            grad_gated = (grad @ b.T).view(-1, experts, rank)
            grad_gates = None
            if ctx.needs_input_grad[1]:
                grad_gates = (grad_gated * hidden.view(len(rows), -1, rank)).sum(-1).to(gates.dtype).view(gates_shape)
            grad_hidden = grad_gated.mul_(gates.to(rows.dtype).unsqueeze(-1))
            grad_hidden = grad_hidden.sum(1) if lora_a.shape[0] < experts else grad_hidden.flatten(1)
            grad_a = (grad_hidden.T @ rows).view(lora_a.shape).to(lora_a.dtype)
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = grad @ weight.to(rows.dtype)
                grad_x = grad_x.addmm_(grad_hidden, a).view(x_shape).to(x_dtype)
        return grad_x, grad_gates, grad_a, grad_b, None, None


def fused_mixture(x: Tensor, gates: Tensor, lora_a: Tensor, lora_b: Tensor, base: nn.Linear) -> Tensor:
    """W x + b + sum_e g_e B_e A_e x, shape (..., d_out), in autocast's precision where that is on.

    x (..., d_in); gates (..., E), already multiplied by the LoRA scaling; lora_a (E or 1, r, d_in); lora_b
    (E, r, d_out); the base's weight and bias get no gradient. Cannot be differentiated twice.
    """
    return _FusedMixture.apply(x, gates, lora_a, lora_b, base.weight, base.bias)  # type: ignore[no-any-return]


def can_fuse(x: Tensor, lora_a: Tensor, base: nn.Module) -> bool:
    """Whether `base` is a plain frozen linear layer, with nothing attached, in the precision of the adapter."""
    if type(base) is not nn.Linear or torch.compiler.is_compiling():
        return False
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return False
    if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks:
        return False
    same = base.weight.dtype == lora_a.dtype == x.dtype
    return base.weight.is_floating_point() and (same or torch.is_autocast_enabled(x.device.type))


def _gated(hidden: Tensor, gates: Tensor, rank: int) -> Tensor:
    grouped = hidden.view(len(hidden), -1, rank)  # (T, E or 1, r)
    return (grouped * gates.to(hidden.dtype).unsqueeze(-1)).view(len(hidden), -1)


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
