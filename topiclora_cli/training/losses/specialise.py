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


def output_products(rows: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """Inner products of what every expert makes of an example's tokens: (B, N * E, N * E), ordered by token.

    rows (B, N, d_in), tokens of each example; lora_a (E or 1, r, d_in); lora_b (E, r, d_out), each B transposed.
    Outputs meet in the rank space: they themselves would take E * d_out numbers for each token.
    """
    hidden = torch.einsum("bnd,erd->bner", rows, lora_a).expand(-1, -1, len(lora_b), -1)
    between = torch.einsum("ero,fso->erfs", lora_b, lora_b)
    return torch.einsum("bner,erfs,bmfs->bnemf", hidden, between, hidden).flatten(1, 2).flatten(2, 3)


def expert_contrast(products: Tensor, *, selected: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE by cosine: outputs of one expert attract, those of different experts repel (MoELoRA, arXiv 2402.12851).

    products (B, N * E, N * E), inner products of the experts' outputs on N tokens of each example; selected (B, N, E)
    of bool, which of them take part -> (B,). Each value is a mean over ordered pairs of outputs of one expert, each
    against all outputs of the others; 0 without such pairs. Cosine, the means over pairs and over examples and the
    default temperature are reconstruction: the method has no public code.
    """
    size, experts = products.shape[-1], selected.shape[-1]
    squared = full_precision(products.diagonal(dim1=1, dim2=2))
    # A fresh B is zero: without a direction there, the gradient is zero.
    speaks = squared > SHORTEST**2
    scale = torch.where(speaks, squared, torch.ones_like(squared)).rsqrt() * speaks
    similarity = full_precision(products) * scale.unsqueeze(2) * scale.unsqueeze(1) / temperature
    taken = selected.flatten(1)
    expert = torch.arange(size, device=products.device) % experts
    same = expert.unsqueeze(1) == expert
    others = similarity.masked_fill(same | ~taken.unsqueeze(1), -torch.inf).logsumexp(-1, keepdim=True)
    alone = torch.eye(size, device=products.device, dtype=torch.bool)
    pairs = same & ~alone & taken.unsqueeze(1) & taken.unsqueeze(2)
    return (F.softplus(others - similarity) * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def orthogonality(lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """Means over entries of (A_e A_e^T - I)^2 and of (B_e^T B_e - I)^2, added (SAMoRA, arXiv 2604.19048).

    lora_a (E or 1, r, d_in); lora_b (E, r, d_out), each B transposed. The paper writes squared norms; its public code,
    whose weight of 1e-3 belongs to it, takes means over all matrices' entries.
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
    return (rows @ rows.mT - identity).square().mean()
