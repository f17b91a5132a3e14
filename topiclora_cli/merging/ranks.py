"""The rank of a LoRA: no larger than it must be, or cut to the best approximation of a smaller one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

Factors = tuple[Tensor, Tensor]  # A (R, d_in) and B (d_out, R)


def smallest(factors: Factors) -> Factors:
    """The same product by fewer rows: without those that B gives no weight, and never more than the matrix has."""
    lora_a, lora_b = factors
    used = lora_b.abs().amax(0) > 0
    if not used.all():
        used[0] |= not used.any()  # a LoRA has one row at least
        lora_a, lora_b = lora_a[used], lora_b[:, used]
    most = min(lora_a.shape[1], lora_b.shape[0])
    return cut(spectrum((lora_a, lora_b)), most) if len(lora_a) > most else (lora_a, lora_b)


def spectrum(factors: Factors) -> Factors:
    """The same product with its singular vectors in order: A = sqrt(S) V^T and B = U sqrt(S), in A's dtype.

    Made of the factors alone, by their QR decompositions: the matrix itself, d_out x d_in, never exists.
    """
    lora_a, lora_b = (factor.double() for factor in factors)
    right, lower_a = torch.linalg.qr(lora_a.T)
    left, lower_b = torch.linalg.qr(lora_b)
    u, s, v = torch.linalg.svd(lower_b @ lower_a.T, full_matrices=False)
    root = s.sqrt()
    return ((root[:, None] * v) @ right.T).to(factors[0].dtype), ((left @ u) * root).to(factors[0].dtype)


def cut(ordered: Factors, rank: int) -> Factors:
    """The best approximation of this rank, of factors that `spectrum` has put in order."""
    return ordered[0][:rank].contiguous(), ordered[1][:, :rank].contiguous()


@contextmanager
def at_rank(lora: nn.Module, rank: int) -> Iterator[None]:
    """A stock LoRA whose factors are in order as it would be, cut to this rank, within the block."""
    layers: list[Any] = [module for module in lora.modules() if isinstance(module, LoraLayer)]
    parts = [(layer.lora_A[name], layer.lora_B[name]) for layer in layers for name in layer.lora_A]
    kept = [(a.weight.data, b.weight.data) for a, b in parts]
    try:
        for (a, b), whole in zip(parts, kept, strict=True):
            a.weight.data, b.weight.data = cut(whole, rank)
        yield
    finally:
        for (a, b), (lora_a, lora_b) in zip(parts, kept, strict=True):
            a.weight.data, b.weight.data = lora_a, lora_b


def rank_of_energy(ordered: Factors, energy: float) -> int:
    """The smallest rank that keeps this share of the squared singular values; at least 1."""
    squares = (ordered[0].double().square().sum(1)) ** 2  # rows of A have the norm sqrt(s)
    shares = squares.cumsum(0) / squares.sum().clamp_min(1e-300)
    return min(int((shares < energy).sum()) + 1, len(squares))
