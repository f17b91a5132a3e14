"""Losses on how evenly the experts are used over a step.

Each is a function of means over all tokens or examples of a step, so it comes in two halves: what is measured of one
token or example, and what the means of that over the whole step are worth. A step that is cut into micro-batches or
shared out to processes then has the loss of the step in one piece, which a mean of the pieces' losses is not: the
balance of a few examples asks each of them to use all experts.
"""

import torch
from torch import Tensor

from topiclora_cli.training.losses.common import TINY, divergence, full_precision


def expert_activity(gates: Tensor, scores: Tensor) -> Tensor:
    """What `switch_balance` takes the mean of: (..., 2E), which experts are active, then the router's scores of each.

    gates (..., E), above zero where an expert is active; scores (..., E), a dense softmax or what stands for it.
    """
    return torch.cat([(gates > 0).to(scores.dtype), scores], -1)


def switch_balance(means: Tensor, *, counts: str = "slots") -> Tensor:
    """E * sum_e f_e p_e from the means (2E,) of `expert_activity` (Switch Transformer, arXiv 2101.03961, eq. 4).

    p_e is expert e's mean score. f_e is its share of all active slots, which makes a perfectly even router's balance 1;
    with counts "tokens" it is its share of the tokens, which makes it the number of active experts: so MixLoRA, AdaMoLE
    and transformers count.
    """
    active, score = means.chunk(2, -1)
    share = active / active.sum().clamp_min(TINY) if counts == "slots" else active
    return len(score) * (share * score).sum()


def sample_types(prior: Tensor) -> Tensor:
    """Whether the second half of the experts holds more of each sample's prior: (B, E) -> (B,) of bool."""
    second = _in_second_half(prior.shape[-1], prior.device)
    return (prior * second).sum(-1) > (prior * ~second).sum(-1)


def importance(gates: Tensor, *, mask: Tensor, types: Tensor | None = None, delta: float = 0.0) -> Tensor:
    """What `local_balance` takes the mean of: (B, 2), the mean over experts of I * Q and of its square.

    gates (B, S, E); mask (B, S); types (B,) of bool, true where a sample belongs to the second half of the experts.
    Q (B, E) sums each expert's gates over a sample's tokens; I is 1 + delta where expert and sample are of one type,
    else 1 - delta, and 1 everywhere without types.
    """
    gates = full_precision(gates)
    weighted = torch.einsum("bse,bs->be", gates, mask.to(gates.dtype))
    if types is not None:
        own = types.unsqueeze(-1) == _in_second_half(gates.shape[-1], gates.device)
        weighted = weighted * (1 + delta * (2 * own.to(gates.dtype) - 1))
    return torch.stack([weighted.mean(-1), weighted.square().mean(-1)], -1)


def local_balance(means: Tensor) -> Tensor:
    """var(I * Q) / mean(I * Q)^2 over experts and samples (LoRAMoE, arXiv 2312.09979, localised balancing constraint).

    means (2,) of `importance`. The variance is the population's: E - 1 when one expert takes all. Even I * Q means that
    Q goes as 1 / I, so the paper's positive delta leaves a sample's own experts the smaller share, and a negative one
    the larger.
    """
    return means[1] / means[0].square() - 1


def normal_profile(use: Tensor, *, width: float = 0.5) -> Tensor:
    """KL(bell || use) from the experts' mean gates (E,), as shares, sorted (GMoE, arXiv 2412.16216, balance strategy).

    The bell is a normal density at 0..E-1 around E/2, its deviation `width` * E, sorted as well. GMoE's public code
    trains the deviation from E/2 on, counts use over the whole training and takes the logarithm's absolute value; here
    the deviation is fixed, the use is the step's and the divergence is plain.
    """
    experts = len(use)
    use = full_precision(use)
    log_use = (use / use.sum()).clamp_min(1e-8).log().sort(descending=True).values
    places = torch.arange(experts, device=use.device, dtype=use.dtype)
    bell = (-0.5 * ((places - experts / 2) / (width * experts)).square()).log_softmax(-1)
    return divergence(bell.sort(descending=True).values, log_use)


def _in_second_half(experts: int, device: torch.device) -> Tensor:
    return torch.arange(experts, device=device) >= experts / 2
