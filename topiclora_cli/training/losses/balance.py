"""Losses on how evenly the experts are used over a batch."""

import torch
from torch import Tensor

from topiclora_cli.training.losses.common import divergence, full_precision, probabilities, token_mean


def switch_balance(logits: Tensor, gates: Tensor, *, mask: Tensor) -> Tensor:
    """E * sum_e f_e p_e, which is 1 for a perfectly even router (Switch Transformer, arXiv 2101.03961, eq. 4).

    logits, gates (B, S, E); mask (B, S) of real tokens. f_e is the share of active slots that expert e takes; an
    expert is active where its gate is above zero, so gates cut at a threshold make this AdaMoLE's auxiliary loss too
    (arXiv 2405.00361). AdaMoLE's public code differs in two ways: its f_e counts tokens and not slots, so that more
    active experts cost more, and its p_e is what exceeds the threshold.
    """
    active = (gates > 0).to(full_precision(logits).dtype)
    slots = active / active.sum(-1, keepdim=True).clamp_min(1)
    share = token_mean(slots, mask=mask)
    probability = token_mean(probabilities(logits), mask=mask)
    return logits.shape[-1] * (share * probability).sum()


def sample_types(prior: Tensor) -> Tensor:
    """Whether the second half of the experts holds more of each sample's prior: (B, E) -> (B,) of bool."""
    second = _in_second_half(prior.shape[-1], prior.device)
    return (prior * second).sum(-1) > (prior * ~second).sum(-1)


def local_balance(gates: Tensor, *, mask: Tensor, types: Tensor | None = None, delta: float = 0.0) -> Tensor:
    """var(I * Q) / mean(I * Q)^2 over experts and samples (LoRAMoE, arXiv 2312.09979, localised balancing constraint).

    gates (B, S, E); mask (B, S); types (B,) of bool, true where a sample belongs to the second half of the experts.
    Q (B, E) sums each expert's gates over a sample's tokens; I is 1 + delta where expert and sample are of one type,
    else 1 - delta, and 1 everywhere without types. The variance is the population's: E - 1 when one expert takes all.
    Even I * Q means that Q goes as 1 / I, so the paper's positive delta leaves a sample's own experts the smaller
    share, and a negative one the larger.
    """
    gates = full_precision(gates)
    weighted = torch.einsum("bse,bs->be", gates, mask.to(gates.dtype))
    if types is not None:
        own = types.unsqueeze(-1) == _in_second_half(gates.shape[-1], gates.device)
        weighted = weighted * (1 + delta * (2 * own.to(gates.dtype) - 1))
    return weighted.var(correction=0) / weighted.mean().square()


def normal_profile(gates: Tensor, *, mask: Tensor, width: float = 0.5) -> Tensor:
    """KL(bell || use), use being the experts' share of all gates, sorted (GMoE, arXiv 2412.16216, balance strategy).

    gates (B, S, E); mask (B, S). The bell is a normal density at 0..E-1 around E/2, its deviation `width` * E, sorted
    as well. GMoE's public code trains the deviation from E/2 on, counts use over the whole training and takes the
    logarithm's absolute value; here the deviation is fixed, the use is the batch's and the divergence is plain.
    """
    experts = gates.shape[-1]
    use = token_mean(full_precision(gates), mask=mask)
    log_use = (use / use.sum()).clamp_min(1e-8).log().sort(descending=True).values
    places = torch.arange(experts, device=use.device, dtype=use.dtype)
    bell = (-0.5 * ((places - experts / 2) / (width * experts)).square()).log_softmax(-1)
    return divergence(bell.sort(descending=True).values, log_use)


def _in_second_half(experts: int, device: torch.device) -> Tensor:
    return torch.arange(experts, device=device) >= experts / 2
