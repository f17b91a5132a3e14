"""What the losses share: full precision, sums over real tokens, entropy and divergence."""

import torch
from torch import Tensor

TINY = 1e-12


def full_precision(values: Tensor) -> Tensor:
    """Half precision raised to float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def probabilities(logits: Tensor) -> Tensor:
    """The router's dense softmax in full precision: (..., E) -> (..., E)."""
    return full_precision(logits).softmax(-1)


def token_sum(values: Tensor, *, mask: Tensor) -> Tensor:
    """Sum over the tokens whose mask (B, S) is 1: values (B, S) -> scalar, or (B, S, n) -> (n,)."""
    return torch.tensordot(mask.to(values.dtype), values, dims=2)


def entropy(distribution: Tensor) -> Tensor:
    """Entropy of the last axis in nats: (..., E) -> (...)."""
    clamped = distribution.clamp_min(TINY)
    return -(clamped * clamped.log()).sum(-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of the last axis from logarithms: (..., E) -> (...)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
