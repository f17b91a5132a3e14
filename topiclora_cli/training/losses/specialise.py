"""Losses on the experts and keys themselves: what one does, no other should."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from topiclora_cli.training.losses.common import divergence, full_precision

SHORTEST = 1e-6


def key_anchor(keys: Sequence[Tensor], anchors: Sequence[Tensor]) -> Tensor:
    """Mean over layers of ||K - K_0||^2, keys and anchors (E, d) each: trained keys stay structurally apart."""
    return torch.stack([(key - anchor).square().sum() for key, anchor in zip(keys, anchors, strict=True)]).mean()


def expert_contrast(outputs: Tensor, *, selected: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE by cosine: outputs of one expert attract, those of different experts repel (MoELoRA, arXiv 2402.12851).

    outputs (N, E, d), what every expert makes of N tokens; selected (N, E) of bool, which of them take part. The mean
    is over ordered pairs of outputs of one expert, each against all outputs of the others; 0 without such pairs.
    Cosine, the mean over pairs and the default temperature are reconstruction: the method has no public code.
    """
    vectors = _directions(full_precision(outputs))[selected]  # (M, d)
    expert = selected.nonzero()[:, 1]
    similarity = vectors @ vectors.T / temperature
    same = expert.unsqueeze(1) == expert
    others = similarity.masked_fill(same, -torch.inf).logsumexp(-1, keepdim=True)
    pairs = same & ~torch.eye(len(same), device=same.device, dtype=torch.bool)
    return (F.softplus(others - similarity) * pairs).sum() / pairs.sum().clamp_min(1)


def orthogonality(lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """sum_e ||A_e A_e^T - I||^2 + sum_e ||B_e^T B_e - I||^2 (SAMoRA, arXiv 2604.19048, orthogonality regulariser).

    lora_a (E or 1, r, d_in); lora_b (E, r, d_out), each B transposed. SAMoRA shares one A, and its public code takes
    means over matrix entries where this takes sums.
    """
    return _from_identity(lora_a) + _from_identity(lora_b)


def centre_alignment(keys: Tensor, lora_b: Tensor) -> Tensor:
    """Mean over experts of KL(softmax of its centre || softmax of its key) (SAMoRA, arXiv 2604.19048, alignment).

    keys (E, r), the cosine router's; lora_b (E, r, d_out), each B transposed. An expert's centre is B's mean over
    output features; key and centre have unit length before the softmax over the r ranks.
    """
    centres = _directions(full_precision(lora_b).mean(-1)).log_softmax(-1)
    return divergence(centres, _directions(full_precision(keys)).log_softmax(-1)).mean()


def _directions(vectors: Tensor) -> Tensor:
    # A fresh B is zero: without a direction there, the gradient is zero, where F.normalize's would be 1e12.
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length > SHORTEST, vectors / length.clamp_min(SHORTEST), torch.zeros_like(vectors))


def _from_identity(rows: Tensor) -> Tensor:
    rows = full_precision(rows)
    identity = torch.eye(rows.shape[-2], device=rows.device, dtype=rows.dtype)
    return (rows @ rows.mT - identity).square().sum()
