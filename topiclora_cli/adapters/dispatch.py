"""Sparse mixtures: rows sorted by expert, then one multiplication per factor for all experts at once.

The dense form multiplies by every expert and zeroes most of the result, which is the faster way while E*r is small.
Beyond that the work should grow with the k active experts only: sort the (token, expert) pairs by expert, multiply each
run of rows with its expert's matrix, and add the results back to their tokens. On a CPU the runs are filled up to the
length of the longest, with weight zero, since a batched product uses all cores; `grouped_mm` takes them as they are,
which is the way on a GPU, and anywhere once a few experts take nearly all tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from topiclora_cli.adapters.dropout import redrawn

# Where sorting overtakes masking, in E*r. CPU: measured (make bench). CUDA: from the memory traffic of both forms; on
# an H200 masking was still the faster by a sixth at 512.
DENSE_UP_TO = {"cpu": 192, "cuda": 512}
FEW_ROWS = 32  # below this the sort costs more than the idle experts
MOST_FILLING = 3  # rows after filling up, over the (token, expert) pairs

Activation = Callable[[Tensor], Tensor] | None


class Dispatch(NamedTuple):
    """(token, expert) pairs in order of expert.

    token (N,), weight (N,); ends (E,), where each expert's run ends; capacity, the length of every run where they are
    filled up to the same, so that N = E * capacity, else None.
    """

    token: Tensor
    weight: Tensor
    ends: Tensor
    capacity: int | None

    def product(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Each run of rows (N, a) times its expert's matrix (E, a, b): (N, b)."""
        if self.capacity is None:
            return F.grouped_mm(rows, matrices, offs=self.ends)
        return torch.bmm(self._runs(rows), matrices).flatten(0, 1)

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """left^T right of each run, rows (N, a) and (N, b): (E, a, b)."""
        if self.capacity is None:
            return F.grouped_mm(left.T, right, offs=self.ends)
        return torch.bmm(self._runs(left).transpose(1, 2), self._runs(right))

    def _runs(self, rows: Tensor) -> Tensor:
        return rows.view(len(self.ends), self.capacity or 0, rows.shape[-1])


def dispatch(experts: Tensor, weights: Tensor, num_experts: int, *, even: bool) -> Dispatch:
    """Sort the chosen experts and their weights (T, k) by expert; `even` asks for runs of one length."""
    pairs, slots = experts.flatten(), experts.shape[-1]
    order = pairs.argsort(stable=True)
    counts = torch.bincount(pairs, minlength=num_experts)
    ends = counts.cumsum(0)
    capacity = int(counts.max()) if even else 0
    # grouped_mm knows no float64, so there runs are filled up whatever it costs.
    lopsided = len(counts) * capacity > MOST_FILLING * len(order) and weights.dtype != torch.float64
    if not even or lopsided:
        return Dispatch(order // slots, weights.flatten()[order], ends.to(torch.int32), None)
    within = torch.arange(len(order), device=weights.device) - (ends - counts).repeat_interleave(counts)
    place = torch.empty_like(order).index_copy_(0, order, pairs[order] * capacity + within)  # of each pair
    size = len(counts) * capacity
    return Dispatch(
        order.new_zeros(size).index_copy_(0, place, torch.arange(len(order), device=weights.device) // slots),
        weights.new_zeros(size).scatter(0, place, weights.flatten()),  # keeps the places alone for backward
        ends.to(torch.int32),
        capacity,
    )


class _Down(torch.autograd.Function):
    """rows (T, d_in) -> A_e x of every pair (N, r); the gathered rows are not kept but gathered again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, lora_a: Tensor, plan: Dispatch) -> Tensor:
        ctx.save_for_backward(rows, lora_a, plan.token, plan.ends)
        ctx.capacity = plan.capacity
        return plan.product(rows.index_select(0, plan.token), lora_a.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, lora_a, token, ends = ctx.saved_tensors
        plan = Dispatch(token, grad, ends, ctx.capacity)
        grad_a = plan.outer(grad, rows.index_select(0, token))
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows = rows.new_zeros(rows.shape).index_add_(0, token, plan.product(grad, lora_a))
        return grad_rows, grad_a, None


class _Up(torch.autograd.Function):
    """Pairs (N, r) -> the sum of g_e B_e act(h) over each row's pairs, (T, d_out); only h is kept of the rank space."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, lora_b: Tensor, plan: Dispatch, num_rows: int, activation: Activation
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, lora_b, plan.token, plan.ends)
        ctx.capacity, ctx.activation = plan.capacity, activation
        out = plan.product(_gated(hidden, weight, activation), lora_b)
        return out.new_zeros(num_rows, out.shape[-1]).index_add_(0, plan.token, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, lora_b, token, ends = ctx.saved_tensors
        plan = Dispatch(token, weight, ends, ctx.capacity)
        with torch.enable_grad():
            leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
            gated = _gated(*leaves, ctx.activation)
        grads = grad.index_select(0, token)
        grad_leaves = torch.autograd.grad(gated, leaves, plan.product(grads, lora_b.transpose(1, 2)))
        return *grad_leaves, plan.outer(gated.detach(), grads), None, None, None


def _gated(hidden: Tensor, weight: Tensor, activation: Activation) -> Tensor:
    return (hidden if activation is None else activation(hidden)) * weight.unsqueeze(-1)


def sparse_delta(
    x: Tensor,
    plan: Dispatch,
    lora_a: Tensor,
    lora_b: Tensor,
    activation: Activation = None,
    *,
    dropout: float = 0.0,
    rank_dropout: float = 0.0,
) -> Tensor:
    """Sum over the active experts of g_e B_e act(A_e x), for rows x (T, d_in): (T, d_out).

    lora_a (E or 1, r, d_in); lora_b (E, r, d_out); the plan's weights carry the LoRA scaling. dropout is on x, a mask
    for every pair of token and expert; rank_dropout on A_e x. Keeps x and the pairs' rank space for backward, nothing
    of full width for every pair.
    """
    dtype = _compute_dtype(x, lora_b)
    x, lora_a, lora_b = x.to(dtype), lora_a.to(dtype), lora_b.to(dtype)
    if dropout:
        hidden = redrawn(_dropped_down, x, lora_a, plan, dropout)
    elif lora_a.shape[0] == 1:
        hidden = F.linear(x, lora_a[0]).index_select(0, plan.token)
    else:
        hidden = _Down.apply(x, lora_a, plan)
    if rank_dropout:
        hidden = F.dropout(hidden, rank_dropout)
    return _Up.apply(hidden, plan.weight.to(dtype), lora_b, plan, len(x), activation)  # type: ignore[no-any-return]


def _dropped_down(x: Tensor, lora_a: Tensor, plan: Dispatch, p: float) -> Tensor:
    """A_e (m * x) of every pair, m a mask of its own."""
    pairs = F.dropout(x.index_select(0, plan.token), p)
    if lora_a.shape[0] == 1:
        return F.linear(pairs, lora_a[0])
    apart = plan._replace(token=torch.arange(len(pairs), device=pairs.device))
    return _Down.apply(pairs, lora_a, apart)  # type: ignore[no-any-return]


def prefers_sparse(x: Tensor, lora_b: Tensor, top_k: int | None, *, own_masks: bool = False) -> bool:
    """Whether sorting is the faster way for these sizes on this device, and grouped_mm can take them.

    own_masks: each expert drops elements of x by itself, which costs more than anything else, and a sorted token k
    masks instead of E.
    """
    experts, rank, _ = lora_b.shape
    limit = 0 if own_masks else DENSE_UP_TO.get(x.device.type)
    if limit is None or top_k is None or 2 * top_k > experts or experts * rank <= limit:
        return False
    rows = x.numel() // x.shape[-1]
    return rows >= FEW_ROWS and can_dispatch(x, lora_b) and not torch.compiler.is_compiling()


def can_dispatch(x: Tensor, lora_b: Tensor) -> bool:
    """grouped_mm wants rows of whole 16 bytes, in d_in, r and d_out, and knows no float64; a CPU can do without it."""
    sizes, dtype = (x.shape[-1], *lora_b.shape[1:]), _compute_dtype(x, lora_b)
    if dtype == torch.float64:
        return x.device.type == "cpu"
    return all(size * dtype.itemsize % 16 == 0 for size in sizes)


def _compute_dtype(x: Tensor, lora_b: Tensor) -> torch.dtype:
    # Autocast does not know grouped_mm.
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else lora_b.dtype
