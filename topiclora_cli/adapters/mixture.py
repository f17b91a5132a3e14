"""The arithmetic of a mixture of LoRA experts, without a loop over experts.

E experts of rank r are one LoRA of rank E*r whose middle is scaled block by block with the gates:

    y = W x + s * sum_e g_e B_e A_e x = W x + s * ((x A^T) * repeat(g, r)) B

with the A_e stacked to (E*r, d_in) and the B_e, transposed, to (E*r, d_out). Three matmuls in all; top-k routing is
zeros in the gates. With one A shared by every expert (HydraLoRA, arXiv 2404.19245) the same line broadcasts.
"""

import torch.nn.functional as F
from torch import Tensor


def gated_sum(hidden: Tensor, gates: Tensor, lora_b: Tensor) -> Tensor:
    """Sum over experts of g_e B_e h_e, shape (..., d_out).

    hidden (..., E, r), or (..., 1, r) when A is shared; gates (..., E), already multiplied by the LoRA scaling; lora_b
    (E, r, d_out).
    """
    gated = hidden * gates.to(hidden.dtype).unsqueeze(-1)
    return gated.flatten(-2) @ lora_b.flatten(0, 1).to(gated.dtype)


def rank_space(x: Tensor, lora_a: Tensor) -> Tensor:
    """A_e x for every expert: (..., E, r), or (..., 1, r) when A is shared."""
    return F.linear(x, lora_a.flatten(0, 1)).unflatten(-1, (-1, lora_a.shape[1]))


def apart(factors: tuple[Tensor, Tensor], routed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A (E + S or 1, r, d_in) and B (E + S, r, d_out) of the E routed experts, and of the S others; one A is both's."""
    lora_a, lora_b = factors
    if routed == len(lora_b):
        return factors, (lora_a[:0], lora_b[:0])  # a part that is all would cost a copy of each gradient
    if len(lora_a) == 1:
        return (lora_a, lora_b[:routed]), (lora_a, lora_b[routed:])
    return (lora_a[:routed], lora_b[:routed]), (lora_a[routed:], lora_b[routed:])


def fan_out(hidden: Tensor, experts: Tensor, lora_b: Tensor) -> Tensor:
    """B_e h_e for the k experts chosen by each token: hidden (..., E or 1, r), experts (..., k) -> (..., k, d_out)."""
    one_hot = F.one_hot(experts, lora_b.shape[0]).to(hidden.dtype)  # (..., k, E)
    chosen = one_hot.unsqueeze(-1) * hidden.unsqueeze(-3)  # (..., k, E, r)
    return chosen.flatten(-2) @ lora_b.flatten(0, 1).to(chosen.dtype)


def fan_in(x: Tensor, experts: Tensor, weights: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """Sum over slots of w_j B_e(j) A_e(j) x_j: x (..., k, d_in), experts and weights (..., k) -> (..., d_out)."""
    one_hot = F.one_hot(experts, lora_b.shape[0]).to(x.dtype)  # (..., k, E)
    chosen = rank_space(x, lora_a) * (one_hot * weights.to(x.dtype).unsqueeze(-1)).unsqueeze(-1)  # (..., k, E, r)
    return chosen.sum(-3).flatten(-2) @ lora_b.flatten(0, 1).to(x.dtype)


def collapse(gates: Tensor, lora_a: Tensor, lora_b: Tensor) -> tuple[Tensor, Tensor]:
    """One ordinary LoRA that equals the mixture under fixed gates (E,), exactly.

    Returns A (E*r, d_in) and B (d_out, E*r), or, where A is shared, A itself (r, d_in) and B (d_out, r), the sum of the
    gated B_e; the gates must carry the LoRA scaling.
    """
    gated = lora_b * gates.to(lora_b.dtype)[:, None, None]  # (E, r, d_out)
    if len(lora_a) == 1:
        return lora_a[0].contiguous(), gated.sum(0).T.contiguous()
    return lora_a.flatten(0, 1).contiguous(), gated.flatten(0, 1).T.contiguous()
