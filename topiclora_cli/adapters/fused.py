"""The base linear and its mixture of experts as one autograd function: all experts masked, or the active ones sorted.

Plain autograd runs the adapter beside the base layer: it scales and adds a full-width delta forward, and sums two
full-width gradients backward. Here the delta is accumulated straight into the base layer's output (`addmm_`), the
input's gradient likewise, the scaling rides on the gates, and only x, A x and the gates are kept: the gated product and
the sorted rows are cheap and made again. Same function, fewer passes over memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from topiclora_cli.adapters.dispatch import Dispatch


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


class _SortedMixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weights: Tensor,
        lora_a: Tensor,
        lora_b: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        plan: Dispatch,
    ) -> Tensor:
        out = F.linear(rows, weight, bias)
        if lora_a.shape[0] == 1:
            hidden = F.linear(rows, lora_a[0]).index_select(0, plan.token)  # (N, r)
        else:
            hidden = plan.product(rows.index_select(0, plan.token), lora_a.transpose(1, 2))
        weighted = hidden * weights.to(hidden.dtype).unsqueeze(-1)
        out.index_add_(0, plan.token, plan.product(weighted, lora_b))
        ctx.save_for_backward(rows, weights, hidden, lora_a, lora_b, weight, plan.token, plan.ends)
        ctx.capacity = plan.capacity
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights, hidden, lora_a, lora_b, weight, token, ends = ctx.saved_tensors
        plan = Dispatch(token, weights, ends, ctx.capacity)
        scale = weights.to(rows.dtype).unsqueeze(-1)
        grads = grad.index_select(0, token)  # (N, d_out)
        grad_b = plan.outer(hidden * scale, grads)
        grad_weighted = plan.product(grads, lora_b.transpose(1, 2))  # (N, r)
        grad_weights = (grad_weighted * hidden).sum(-1, dtype=weights.dtype)
        grad_hidden = grad_weighted.mul_(scale)
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        if lora_a.shape[0] == 1:
            by_token = grad_hidden.new_zeros(len(rows), lora_b.shape[1]).index_add_(0, token, grad_hidden)
            grad_a = (by_token.T @ rows).unsqueeze(0)
            if grad_x is not None:
                grad_x.addmm_(by_token, lora_a[0])
        else:
            grad_a = plan.outer(grad_hidden, rows.index_select(0, token))
            if grad_x is not None:
                grad_x.index_add_(0, token, plan.product(grad_hidden, lora_a))
        return grad_x, grad_weights, grad_a, grad_b, None, None, None


def fused_mixture(x: Tensor, gates: Tensor, lora_a: Tensor, lora_b: Tensor, base: nn.Linear) -> Tensor:
    """W x + b + sum_e g_e B_e A_e x, shape (..., d_out), in autocast's precision where that is on.

    x (..., d_in); gates (..., E), already multiplied by the LoRA scaling; lora_a (E or 1, r, d_in); lora_b
    (E, r, d_out); the base's weight and bias get no gradient. Cannot be differentiated twice.
    """
    return _apply(_FusedMixture, x, gates.reshape(-1, gates.shape[-1]), lora_a, lora_b, base)


def fused_sorted_mixture(x: Tensor, plan: Dispatch, lora_a: Tensor, lora_b: Tensor, base: nn.Linear) -> Tensor:
    """`fused_mixture` over the (token, expert) pairs of a plan, whose weights carry the LoRA scaling."""
    return _apply(_SortedMixture, x, plan.weight, lora_a, lora_b, base, plan)


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


def _apply(
    function: Any, x: Tensor, weights: Tensor, lora_a: Tensor, lora_b: Tensor, base: nn.Linear, *plan: Dispatch
) -> Tensor:
    # Reshaping stands outside the function: a view made inside could not be changed in place by the model around it.
    device = x.device.type
    tensors = (x.reshape(-1, x.shape[-1]), lora_a, lora_b, base.weight, base.bias)
    if not torch.is_autocast_enabled(device):
        out = function.apply(tensors[0], weights, *tensors[1:], *plan)
    else:
        # So do the casts, so that autograd returns each gradient in its tensor's own precision.
        dtype = torch.get_autocast_dtype(device)
        cast = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
        with torch.autocast(device, enabled=False):
            out = function.apply(cast[0], weights, *cast[1:], *plan)
    return out.view(*x.shape[:-1], out.shape[-1])  # type: ignore[no-any-return]


def _gated(hidden: Tensor, gates: Tensor, rank: int) -> Tensor:
    grouped = hidden.unflatten(-1, (-1, rank))  # (T, E or 1, r)
    return (grouped * gates.to(hidden.dtype).unsqueeze(-1)).flatten(1)
