"""From router scores to gates: which experts take part for a token, and with what weight."""

import torch
from torch import Tensor


def select_experts(
    logits: Tensor, *, top_k: int | None = None, top_p: float | None = None, gate_weights: str = "renormalised"
) -> Tensor:
    """Gates (..., E) from logits (..., E): softmax over all, over the k largest, or the fewest that hold mass top_p.

    gate_weights says what the k kept weigh. renormalised: a softmax over them, except for a single one: made one it
    would be constant, and the router would get no gradient from the language-modelling loss. For the same reason top-p
    leaves the probabilities as they are. probability: as the softmax over all has them. constant: 1 / k each, with the
    gradient of that probability in its place (a straight-through estimate; ReMix, arXiv 2603.10160, has constant gates
    and trains its router by reinforcement).
    """
    if top_p is not None:
        return _nucleus(logits.softmax(-1), top_p)
    if top_k is None or (top_k >= logits.shape[-1] and gate_weights != "constant"):
        return logits.softmax(-1)
    values, indices = logits.topk(top_k, dim=-1)
    if gate_weights == "renormalised" and top_k > 1:
        kept = values.softmax(-1)
    else:
        kept = logits.softmax(-1).gather(-1, indices)
    if gate_weights == "constant":
        kept = kept - kept.detach() + 1 / top_k
    return torch.zeros_like(logits).scatter(-1, indices, kept)


def chosen_experts(logits: Tensor, *, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Which experts `select_experts` would give a gate: (..., E) of bool."""
    if top_p is not None:
        return _nucleus(logits.softmax(-1), top_p) > 0
    if top_k is None or top_k >= logits.shape[-1]:
        return torch.ones_like(logits, dtype=torch.bool)
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.topk(top_k, dim=-1).indices, True)


def keep_top_k(probabilities: Tensor, top_k: int, *, renormalize: bool) -> tuple[Tensor, Tensor]:
    """The top_k largest of probabilities (..., E) and their indices, (..., k) each; renormalised to sum to 1 or not."""
    weights, experts = probabilities.topk(top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True) if renormalize else weights, experts


def in_proportion(excess: Tensor) -> Tensor:
    """Gates (..., E) in proportion to max(excess, 0), of which one at least is positive (AdaMoLE, arXiv 2405.00361)."""
    excess = excess.clamp_min(0)
    return excess / excess.sum(-1, keepdim=True).clamp_min(torch.finfo(excess.dtype).tiny)


def sparsegen(scores: Tensor, sharpness: Tensor) -> Tensor:
    """Gates (..., E): the point of the simplex nearest to scores / sharpness (Laha et al., 2018, sparsegen-lin).

    sharpness (..., 1) is 1 - lambda > 0; at 1 this is sparsemax, below it fewer experts stay (LD-MoLE, arXiv
    2509.25684, closed form max(0, (u - tau) / (1 - lambda))).
    """
    scaled = scores / sharpness
    ordered = scaled.sort(-1, descending=True).values
    count = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device, dtype=ordered.dtype)
    excess = ordered.cumsum(-1) - 1
    support = (count * ordered > excess).sum(-1, keepdim=True)
    tau = excess.gather(-1, support - 1) / support
    return (scaled - tau).clamp_min(0)


def _nucleus(probabilities: Tensor, mass: float) -> Tensor:
    ordered, indices = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < mass, ordered, torch.zeros_like(ordered))
    return torch.zeros_like(probabilities).scatter(-1, indices, kept)
