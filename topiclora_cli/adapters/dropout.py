"""Dropout on the experts' input where each expert draws a mask of its own, as a loop over LoRA modules does.

Elements then leave one expert and stay in another, so the experts see different inputs in training. One mask for all
costs one pass over x; a mask each costs E, of which nothing is kept for backward but x and the generator's state.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Elements of masked copies of x that exist at a time: 128 MiB in bfloat16.
AT_A_TIME = 1 << 26


def dropped(x: Tensor, p: float) -> Tensor:
    """x with a share p of its elements left out and the others scaled up; x itself for 0."""
    return F.dropout(x, p) if p else x


def own_rank_space(x: Tensor, lora_a: Tensor, experts: int, p: float) -> Tensor:
    """A_e (m_e * x) for every expert, m_e a dropout mask of its own: (..., E, r).

    x (..., d_in); lora_a (E or 1, r, d_in). All experts at once, or as many as AT_A_TIME allows.
    """
    rows = x.reshape(-1, x.shape[-1])
    step = max(1, min(experts, AT_A_TIME // max(1, rows.numel())))
    parts = []
    for first in range(0, experts, step):
        count = min(step, experts - first)
        chosen = lora_a if lora_a.shape[0] == 1 else lora_a[first : first + count]
        parts.append(redrawn(_masked, rows, chosen, count, p))
    return torch.cat(parts).transpose(0, 1).unflatten(0, x.shape[:-1])


def redrawn(function: Callable[..., Tensor], *arguments: object) -> Tensor:
    """function(*arguments), whose random masks are drawn again in backward instead of being kept."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)  # type: ignore[no-any-return]


def _masked(rows: Tensor, lora_a: Tensor, experts: int, p: float) -> Tensor:
    return torch.matmul(F.dropout(rows.expand(experts, -1, -1), p), lora_a.transpose(1, 2))  # (E, T, r)
