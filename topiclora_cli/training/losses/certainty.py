"""Losses on how a router splits a single token among the experts; the step's loss is the mean over its tokens.

The generalised Jensen-Shannon divergence also looks at the mean distribution, so it has two halves, as balances have.
"""

import math

import torch
from torch import Tensor

from topiclora_cli.training.losses.common import divergence, entropy, full_precision, probabilities


def z_loss(logits: Tensor) -> Tensor:
    """logsumexp(logits)^2, which keeps logits small: (..., E) -> (...) (ST-MoE, arXiv 2202.08906, eq. 5)."""
    return full_precision(logits).logsumexp(-1).square()


def distribution_and_entropy(logits: Tensor, *, certainty: float = 0.5) -> Tensor:
    """What `generalised_js` takes the mean of: (..., E + 1), p and its entropy, counted down to `certainty` * ln E."""
    routing = probabilities(logits)
    floor = certainty * math.log(logits.shape[-1])
    return torch.cat([routing, entropy(routing).clamp_min(floor).unsqueeze(-1)], -1)


def generalised_js(means: Tensor, *, balance: float = 0.98, certainty: float = 0.5) -> Tensor:
    """relu(D_max - (H(mean p) - mean H(p))) / ln E: sure of each token, even over all (HMoRA, ICLR 2025, GJS loss).

    means (E + 1,) of `distribution_and_entropy`. H(mean p) counts up to `balance` * ln E, each H(p) down to
    `certainty` * ln E and D_max is the difference of the two, so 0 is reached before either extreme. A router stuck on
    one expert scores `balance`, a uniform one 1 - `certainty`.
    """
    limit = math.log(len(means) - 1)
    if limit == 0:
        return means.new_zeros(())
    of_mean = entropy(means[:-1]).clamp_max(balance * limit)
    return torch.relu((balance - certainty) * limit - (of_mean - means[-1])) / limit


def poisson_profile(logits: Tensor, *, rate: float = 1.5) -> Tensor:
    """KL(Poisson || p), p a token's probabilities from the largest down (GMoE, arXiv 2412.16216, distinction strategy).

    logits (..., E) -> (...). The profile is Poisson's mass at 1..E, normalised. GMoE's public code trains the rate
    within 1 to 2, from 1.5 on, and takes the logarithm's absolute value; here the rate is fixed and the divergence is
    plain.
    """
    routing = full_precision(logits).log_softmax(-1).sort(-1, descending=True).values
    places = torch.arange(1, logits.shape[-1] + 1, device=routing.device, dtype=routing.dtype)
    profile = (places * math.log(rate) - torch.lgamma(places + 1)).log_softmax(-1)
    return divergence(profile, routing)


def sparsity(gates: Tensor, *, target: int) -> Tensor:
    """The gates beyond a token's `target` largest plus `target` times the largest of those: (..., E) -> (...).

    Of gates that sum to 1 it is 0 where at most `target` experts are active and 1 where all E > `target` are equal.
    Source: LD-MoLE (arXiv 2509.25684), whose loss, relu of the smallest lambda that leaves `target` experts less
    lambda, is this times 1 - lambda for gates made by sparsegen; on gates it needs no lambda, serves every router and
    reaches the scores too.
    """
    gates = full_precision(gates)
    if target >= gates.shape[-1]:
        return gates.new_zeros(gates.shape[:-1])
    ordered = gates.sort(-1, descending=True).values
    return ordered[..., target:].sum(-1) + target * ordered[..., target]
