"""The dual loss: how far the routers are from the topic prior."""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from topiclora_cli.training.losses.common import divergence, entropy, probabilities


def pooled_probabilities(logits: Tensor, *, mask: Tensor) -> Tensor:
    """Mean router softmax over the masked tokens: logits (B, S, E), mask (B, S) -> (B, E)."""
    weights = mask / mask.sum(-1, keepdim=True).clamp_min(1)
    routing = probabilities(logits)
    return torch.einsum("bse,bs->be", routing, weights.to(routing.dtype))


def prior_distance(
    pooled: Tensor,
    *,
    prior: Tensor,
    temperature: float = 1.0,
    label: str = "soft",
    smoothing: float = 0.0,
    direction: str = "forward",
) -> Tensor:
    """Divergence between each example's topic prior and its pooled routing, (B,) in nats, a mean over layers.

    pooled (L, B, E); prior (B, E). `forward` is KL(prior || routing), `reverse` KL(routing || prior), `js` the mean of
    both to their midpoint, at most ln 2. Both sides are softened by `temperature`, whose square keeps the gradient's
    size (Hinton et al., 2015). `label` and `smoothing` are those of `target`. Source: reconstruction of TopicLoRA's
    second loss.
    """
    prior = target(prior, label=label, smoothing=smoothing)
    log_routing = _soften(pooled, temperature)
    log_prior = _soften(prior, temperature).expand_as(log_routing)
    if direction == "forward":
        distance = divergence(log_prior, log_routing)
    elif direction == "reverse":
        distance = divergence(log_routing, log_prior)
    elif direction == "js":
        log_middle = torch.logaddexp(log_prior, log_routing) - math.log(2)
        distance = (divergence(log_prior, log_middle) + divergence(log_routing, log_middle)) / 2
    else:
        raise ValueError(f"direction must be 'forward', 'reverse' or 'js', not {direction!r}")
    return distance.mean(0) * temperature**2


def target(prior: Tensor, *, label: str, smoothing: float) -> Tensor:
    """What routing is drawn to, (..., E): the prior, or its likeliest expert alone where the label is `hard`.

    `smoothing` is the share of it that is spread evenly over the experts (label smoothing, Szegedy et al., 2016).
    """
    if label == "hard":
        prior = one_hot(prior.argmax(-1), prior.shape[-1]).to(prior.dtype)
    return smoothed(prior, smoothing)


def smoothed(prior: Tensor, share: float) -> Tensor:
    """The prior (..., E) with this share of it spread evenly over the experts."""
    return (1 - share) * prior + share / prior.shape[-1]


def normalised_entropy(distribution: Tensor) -> Tensor:
    """Entropy of the last axis divided by ln E, (..., E) -> (...): 1 is uniform, 0 is one expert."""
    experts = distribution.shape[-1]
    if experts == 1:
        return distribution.new_zeros(distribution.shape[:-1])
    return entropy(distribution) / math.log(experts)


def _soften(distribution: Tensor, temperature: float) -> Tensor:
    return (distribution.clamp_min(1e-9).log() / temperature).log_softmax(-1)
