"""The base linear and its mixture of experts, fused: all experts masked, or the active ones sorted.

Plain autograd runs the adapter beside the base layer: it scales and adds a full-width delta forward, and sums
full-width gradients of base, experts and router backward. Here the delta is accumulated straight into the base layer's
output (`addmm_`), the input's gradient likewise, the router's projection rides along with A (in float32), the scaling
with the gates, and only x, A x and the gates are kept: the gated product and the sorted rows are cheap and made again.
Same function, fewer passes over memory.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from topiclora_cli.adapters.dispatch import Dispatch
from topiclora_cli.adapters.precision import no_autocast

Gate = Callable[[Tensor | None], Tensor]  # the router's projection of x (..., n), if asked for, to gates (..., E)


class _FusedMixture(torch.autograd.Function):
    """Where the gates are known: rows (T, d_in), gates (T, E), flat A (E*r or r, d_in) and B (E*r, d_out)."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, gates: Tensor, lora_a: Tensor, lora_b: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        hidden = F.linear(rows, lora_a)
        ctx.save_for_backward(rows, gates, hidden, lora_a, lora_b, weight)
        return _accumulated(rows, hidden, gates, lora_b, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, gates, hidden, lora_a, lora_b, weight = ctx.saved_tensors
        grad_hidden, grad_gates, grad_b = _experts_backward(grad, hidden, gates, lora_b)
        grad_x = (grad @ weight).addmm_(grad_hidden, lora_a) if ctx.needs_input_grad[0] else None
        return grad_x, grad_gates, grad_hidden.T @ rows, grad_b, None, None


class _Project(torch.autograd.Function):
    """rows (T, d_in) -> rows A^T and rows R^T, and the rows again: what reads those hands its gradient back here."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, lora_a: Tensor, router: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both = F.linear(rows, torch.cat([lora_a, router]))
        ctx.save_for_backward(rows, lora_a, router)
        # A copy, since a view would keep the projection's columns, too, until backward.
        return both[:, : len(lora_a)].contiguous(), both[:, len(lora_a) :], rows.view_as(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_projected: Tensor, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        rows, lora_a, router = ctx.saved_tensors
        grad = torch.cat([grad, grad_projected], 1)
        # In place: the last output's only reader is _Accumulate, whose gradient nobody else holds.
        grad_x = grad_rows.addmm_(grad, torch.cat([lora_a, router])) if ctx.needs_input_grad[0] else None
        grad_stacked = grad.T @ rows
        return grad_x, grad_stacked[: len(lora_a)], grad_stacked[len(lora_a) :]


class _Accumulate(torch.autograd.Function):
    """The rest of _FusedMixture, once the gates are made from the projection."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, hidden: Tensor, gates: Tensor, lora_b: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(hidden, gates, lora_b, weight)
        return _accumulated(rows, hidden, gates, lora_b, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, gates, lora_b, weight = ctx.saved_tensors
        grad_hidden, grad_gates, grad_b = _experts_backward(grad, hidden, gates, lora_b)
        grad_rows = grad @ weight if ctx.needs_input_grad[0] else None
        return grad_rows, grad_hidden, grad_gates, grad_b, None, None


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


def fused_mixture(
    x: Tensor, gate: Gate, lora_a: Tensor, lora_b: Tensor, base: nn.Linear, router: Tensor | None = None
) -> Tensor:
    """W x + b + sum_e g_e B_e A_e x, shape (..., d_out), in autocast's precision where that is on.

    x (..., d_in); lora_a (E or 1, r, d_in); lora_b (E, r, d_out); router (n, d_in), or None, as it must be where rows
    are computed in 16 bits, too coarse for a choice; gate makes the gates (..., E), multiplied by the LoRA scaling,
    from x's product with the router. The base's weight and bias get no gradient. Cannot be differentiated twice.
    """
    # Reshaping stands outside the functions: a view made inside could not be changed in place by the model around it.
    rows, flat_a, flat_b, weight, bias = _cast(
        x.reshape(-1, x.shape[-1]), lora_a.flatten(0, 1), lora_b.flatten(0, 1), base.weight, base.bias
    )
    router = None if router is None else router.to(rows.dtype)  # it stays in float32 beside adapters in float64
    if not torch.is_grad_enabled():
        # Nothing to save: at one token a time, an autograd function's own cost would show.
        gates = gate(None if router is None else F.linear(rows, router).view(*x.shape[:-1], len(router)))
        hidden = F.linear(rows, flat_a)
        out = _accumulated(rows, hidden, gates.reshape(-1, gates.shape[-1]), flat_b, weight, bias)
    elif router is None:
        gates = gate(None)
        with no_autocast(x):
            out = _FusedMixture.apply(rows, gates.reshape(-1, gates.shape[-1]), flat_a, flat_b, weight, bias)
    else:
        with no_autocast(x):
            hidden, projected, alias = _Project.apply(rows, flat_a, router)
        gates = gate(projected.view(*x.shape[:-1], len(router)))
        with no_autocast(x):
            alias = alias if rows.requires_grad else rows
            out = _Accumulate.apply(alias, hidden, gates.reshape(-1, gates.shape[-1]), flat_b, weight, bias)
    return out.view(*x.shape[:-1], out.shape[-1])  # type: ignore[no-any-return]


def fused_sorted_mixture(x: Tensor, plan: Dispatch, lora_a: Tensor, lora_b: Tensor, base: nn.Linear) -> Tensor:
    """`fused_mixture` over the (token, expert) pairs of a plan, whose weights carry the LoRA scaling."""
    rows, lora_a, lora_b, weight, bias = _cast(x.reshape(-1, x.shape[-1]), lora_a, lora_b, base.weight, base.bias)
    with no_autocast(x):
        out = _SortedMixture.apply(rows, plan.weight, lora_a, lora_b, weight, bias, plan)
    return out.view(*x.shape[:-1], out.shape[-1])  # type: ignore[no-any-return]


def can_fuse(x: Tensor, lora_a: Tensor, base: nn.Module) -> bool:
    """Whether `base` is a plain frozen linear layer, with nothing attached, in the precision of the adapter."""
    if type(base) is not nn.Linear or torch.compiler.is_compiling() or not is_untouched(base):
        return False
    weight, bias = base.weight, base.bias
    if type(weight) not in (nn.Parameter, Tensor):  # a quantised or a distributed one
        return False
    if weight.is_meta or lora_a.is_meta:  # what is offloaded or was never loaded
        return False
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return False
    same = weight.dtype == lora_a.dtype == x.dtype
    return weight.is_floating_point() and (same or torch.is_autocast_enabled(x.device.type))


def is_untouched(module: nn.Module) -> bool:
    """Whether calling the module runs its class's forward and nothing else: no hook, and no forward put over it.

    accelerate's offloading, profilers and some quantisers work by these.
    """
    if "forward" in module.__dict__ or _has_any_global_hook():
        return False
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not hooks


def _cast(rows: Tensor, *others: Any) -> list[Any]:
    # Casts stand outside the functions too, so that autograd returns each gradient in its tensor's own precision.
    device = rows.device.type
    if not torch.is_autocast_enabled(device):
        return [rows, *others]
    dtype = torch.get_autocast_dtype(device)
    return [None if tensor is None else tensor.to(dtype) for tensor in (rows, *others)]


def _accumulated(
    rows: Tensor, hidden: Tensor, gates: Tensor, lora_b: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    rank = len(lora_b) // gates.shape[1]
    factors = gates.to(hidden.dtype).unsqueeze(-1)
    if hidden.shape[1] == len(lora_b):
        # Factors as they are multiplied with: broadcasting over runs of r is several times slower.
        gated = hidden * factors.expand(-1, -1, rank).reshape(hidden.shape)
    else:
        gated = (hidden.unsqueeze(1) * factors).flatten(1)
    return F.linear(rows, weight, bias).addmm_(gated, lora_b)


def _experts_backward(grad: Tensor, hidden: Tensor, gates: Tensor, lora_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of A x, the gates and flat B from the output's gradient (T, d_out)."""
    rank = len(lora_b) // gates.shape[1]
    grouped, factors = hidden.unflatten(-1, (-1, rank)), gates.to(hidden.dtype).unsqueeze(-1)
    grad_b = (grouped * factors).flatten(1).T @ grad
    grad_gated = (grad @ lora_b.T).unflatten(-1, (-1, rank))  # (T, E, r)
    grad_gates = (grad_gated * grouped).sum(-1, dtype=gates.dtype)
    grad_hidden = grad_gated.mul_(factors)
    shared = grouped.shape[1] < gates.shape[1]
    return grad_hidden.sum(1) if shared else grad_hidden.flatten(1), grad_gates, grad_b
