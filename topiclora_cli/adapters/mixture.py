"""The arithmetic of a mixture of LoRA experts, without a loop over experts.

E experts of rank r are one LoRA of rank E*r whose middle is scaled block by block with the gates:

    y = W x + s * sum_e g_e B_e A_e x = W x + s * ((x A^T) * repeat(g, r)) B

with the A_e stacked to (E*r, d_in) and the B_e, transposed, to (E*r, d_out). Three matmuls in all; top-k routing is
zeros in the gates. With one A shared by every expert (HydraLoRA, arXiv 2404.19245) the same line broadcasts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def select_experts(logits: Tensor, top_k: int | None) -> Tensor:
    """Gates (..., E) from router logits (..., E): softmax, or softmax over the k largest and zero elsewhere.

    A single kept gate keeps its softmax value: renormalised to one it would be constant, and the router would get no
    gradient from the language-modelling loss.
    """
    if top_k is None or top_k >= logits.shape[-1]:
        return logits.softmax(-1)
    values, indices = logits.topk(top_k, dim=-1)
    kept = values.softmax(-1) if top_k > 1 else logits.softmax(-1).gather(-1, indices)
    return torch.zeros_like(logits).scatter(-1, indices, kept)


def mixture_delta(x: Tensor, gates: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """Sum over experts of g_e B_e A_e x, shape (..., d_out).

    x (..., d_in); gates (..., E), already multiplied by the LoRA scaling; lora_a (E, r, d_in), or (1, r, d_in) when
    shared; lora_b (E, r, d_out).
    """
    hidden = F.linear(x, lora_a.flatten(0, 1))  # (..., E*r), or (..., r) when A is shared
    hidden = hidden.unflatten(-1, (-1, lora_a.shape[1]))  # (..., E or 1, r)
    gated = hidden * gates.to(hidden.dtype).unsqueeze(-1)  # (..., E, r)
    return gated.flatten(-2) @ lora_b.flatten(0, 1).to(gated.dtype)


def collapse(gates: Tensor, lora_a: Tensor, lora_b: Tensor) -> tuple[Tensor, Tensor]:
    """One ordinary LoRA that equals the mixture under fixed gates (E,), exactly.

    Returns A (E*r, d_in) and B (d_out, E*r); the gates must carry the LoRA scaling.
    """
    experts = lora_b.shape[0]
    stacked_a = lora_a.expand(experts, -1, -1).flatten(0, 1)
    stacked_b = (lora_b * gates.to(lora_b.dtype)[:, None, None]).flatten(0, 1).T
    return stacked_a.contiguous(), stacked_b.contiguous()
