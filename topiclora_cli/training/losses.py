"""The losses beside language modelling, as pure functions of tensors.

Notation: L layers, B examples, S positions, E experts; probabilities are the routers' dense softmax, before top-k, so
that every expert's logit gets a gradient.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def pooled_probabilities(logits: Tensor, *, mask: Tensor) -> Tensor:
    """Mean router softmax over the masked tokens: logits (B, S, E), mask (B, S) -> (B, E)."""
    weights = mask / mask.sum(-1, keepdim=True).clamp_min(1)
    return torch.einsum("bse,bs->be", logits.float().softmax(-1), weights)


def prior_kl(
    pooled: Tensor,
    *,
    prior: Tensor,
    weight: Tensor | None = None,
    temperature: float = 1.0,
    direction: str = "forward",
) -> Tensor:
    """KL between the topic prior and the pooled routing, a scalar in nats.

    pooled (L, B, E); prior (B, E); weight (B,), the prior's confidence. Forward is KL(prior || routing). Both sides
    are softened by `temperature`, whose square keeps the gradient's size (Hinton et al., 2015). Source:
    reconstruction of TopicLoRA's second loss.
    """
    log_routing = _soften(pooled, temperature)
    log_prior = _soften(prior, temperature).expand_as(log_routing)
    if direction == "forward":
        divergence = (log_prior.exp() * (log_prior - log_routing)).sum(-1)
    elif direction == "reverse":
        divergence = (log_routing.exp() * (log_routing - log_prior)).sum(-1)
    else:
        raise ValueError(f"direction must be 'forward' or 'reverse', not {direction!r}")
    per_example = divergence.mean(0) * temperature**2  # (B,)
    return (per_example if weight is None else per_example * weight).mean()


def switch_balance(logits: Tensor, gates: Tensor, *, mask: Tensor) -> Tensor:
    """E * sum_e f_e p_e, which is 1 for a perfectly even router (Switch Transformer, arXiv 2101.03961, eq. 4).

    logits, gates (B, S, E); mask (B, S) of real tokens. f_e is the share of active slots that expert e takes.
    """
    weights = (mask / mask.sum()).unsqueeze(-1)
    active = (gates > 0).float()
    share = (active / active.sum(-1, keepdim=True) * weights).sum((0, 1))
    probability = (logits.float().softmax(-1) * weights).sum((0, 1))
    return logits.shape[-1] * (share * probability).sum()


def key_anchor(keys: Sequence[Tensor], anchors: Sequence[Tensor]) -> Tensor:
    """Mean over layers of ||K - K_0||^2, keys and anchors (E, d) each: trained keys stay structurally apart."""
    return torch.stack([(key - anchor).square().sum() for key, anchor in zip(keys, anchors, strict=True)]).mean()


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Mean entropy of the last axis divided by ln E: 1 is uniform, 0 is one expert."""
    experts = probabilities.shape[-1]
    if experts == 1:
        return torch.zeros(())
    clamped = probabilities.clamp_min(1e-12)
    return -(clamped * clamped.log()).sum(-1).mean() / math.log(experts)


def kl_weight_at(progress: float, *, peak: float, floor: float, warmup: float) -> float:
    """lambda at a fraction of training: linear warm-up from 0 to `peak`, then cosine to `floor`."""
    if progress < warmup:
        return peak * progress / warmup
    remaining = (progress - warmup) / max(1e-12, 1.0 - warmup)
    floor = min(floor, peak)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, remaining)))


def _soften(probabilities: Tensor, temperature: float) -> Tensor:
    return (probabilities.clamp_min(1e-9).log() / temperature).log_softmax(-1)
