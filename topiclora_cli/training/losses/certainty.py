"""Losses on how a router splits a single token among the experts."""

import math

import torch
from torch import Tensor

from topiclora_cli.training.losses.common import divergence, entropy, full_precision, probabilities, token_mean


def z_loss(logits: Tensor, *, mask: Tensor) -> Tensor:
    """Mean over real tokens of logsumexp(logits)^2, which keeps logits small (ST-MoE, arXiv 2202.08906, eq. 5).

    logits (B, S, E); mask (B, S).
    """
    return token_mean(full_precision(logits).logsumexp(-1).square(), mask=mask)


def generalised_js(logits: Tensor, *, mask: Tensor, balance: float = 0.98, certainty: float = 0.5) -> Tensor:
    """relu(D_max - (H(mean p) - mean H(p))) / ln E: sure of each token, even over all (HMoRA, ICLR 2025, GJS loss).

    logits (B, S, E); mask (B, S). H(mean p) counts up to `balance` * ln E, each token's H(p) down to `certainty` * ln E
    and D_max is the difference of the two, so 0 is reached before either extreme. A router stuck on one expert
    scores `balance`, a uniform one 1 - `certainty`.
    """
    limit = math.log(logits.shape[-1])
    if limit == 0:
        return logits.new_zeros(())
    routing = probabilities(logits)
    of_mean = entropy(token_mean(routing, mask=mask)).clamp_max(balance * limit)
    of_tokens = token_mean(entropy(routing).clamp_min(certainty * limit), mask=mask)
    return torch.relu((balance - certainty) * limit - (of_mean - of_tokens)) / limit


def poisson_profile(logits: Tensor, *, mask: Tensor, rate: float = 1.5) -> Tensor:
    """KL(Poisson || p), p a token's probabilities from the largest down (GMoE, arXiv 2412.16216, distinction strategy).

    logits (B, S, E); mask (B, S). The profile is Poisson's mass at 1..E, normalised. GMoE's public code trains the
    rate within 1 to 2, from 1.5 on, and takes the logarithm's absolute value; here the rate is fixed and the
    divergence is plain.
    """
    routing = full_precision(logits).log_softmax(-1).sort(-1, descending=True).values
    places = torch.arange(1, logits.shape[-1] + 1, device=routing.device, dtype=routing.dtype)
    profile = (places * math.log(rate) - torch.lgamma(places + 1)).log_softmax(-1)
    return token_mean(divergence(profile, routing), mask=mask)


def sparsity(gates: Tensor, *, mask: Tensor, target: int) -> Tensor:
    """Mean over real tokens of the gates beyond the `target` largest plus `target` times the largest of those.

    gates (B, S, E) that sum to 1; mask (B, S). It is 0 where at most `target` experts are active and 1 where all E >
    `target` are equal. Source: LD-MoLE (arXiv 2509.25684), whose loss, relu of the smallest lambda that leaves
    `target` experts less lambda, is this times 1 - lambda for gates made by sparsegen; on gates it needs no lambda,
    serves every router and reaches the scores too.
    """
    if target >= gates.shape[-1]:
        return gates.new_zeros(())
    ordered = full_precision(gates).sort(-1, descending=True).values
    return token_mean(ordered[..., target:].sum(-1) + target * ordered[..., target], mask=mask)
