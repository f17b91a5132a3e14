"""Experts that every token passes through, beside the routed ones: how many there may be, and what their gates are.

They stand behind the routed ones in every tensor, so that index e is the routed expert e throughout. Topics, keys,
priors and the losses on routing are about the routed ones alone (DeepSeekMoE, arXiv 2401.06066).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from topiclora_cli.adapters.selection import chosen_experts
from topiclora_cli.errors import TopicLoraError

SHARED_GATES = ("one", "softmax")


def check_shared(shared: int, routed: int, *, key: str = "shared_experts", of: str = "num_experts") -> None:
    """Raises TopicLoraError for fewer shared experts than none, or more of them than routed ones."""
    if shared < 0:
        raise TopicLoraError(f"{key} ({shared}) must be at least 0.")
    if shared > routed:
        raise TopicLoraError(
            f"{key} ({shared}) cannot exceed {of} ({routed}): experts for every token are no mixture.",
            "Lower it; as many shared experts as routed ones are the most.",
        )


def check_joined(router: str, shared: int, *, joins: bool, mixing: str) -> None:
    """Raises TopicLoraError where shared experts cannot join the routed ones in one softmax.

    joins: whether the router's gates are a softmax that more scores can be part of.
    """
    if not shared:
        raise TopicLoraError("shared_gate: softmax needs shared experts.", "Set shared_experts, or leave it out.")
    if not joins:
        raise TopicLoraError(
            f"shared_gate: softmax means nothing to the {router} router, whose gates no other expert can join.",
            "Use shared_gate: one, or router: topic or linear.",
        )
    if mixing == "ffn":
        raise TopicLoraError(
            "shared_gate: softmax means nothing to mixing: ffn, where shared experts are part of every chosen one.",
            "Use shared_gate: one, or mixing: linear.",
        )


def always_on(gates: Tensor, shared: int) -> Tensor:
    """Gates (..., E) with those of shared experts behind them, exactly one each: (..., E + S)."""
    return F.pad(gates, (0, shared), value=1.0) if shared else gates


def joined_gates(logits: Tensor, shared: Tensor, *, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Gates (..., E + S) of one softmax over the chosen of logits (..., E) and all of shared (..., S).

    (ASE, arXiv 2510.00570.) The routed experts are chosen among themselves. A single one is no exception here: its
    share of the softmax is no constant.
    """
    idle = ~chosen_experts(logits, top_k=top_k, top_p=top_p)
    return torch.cat([logits.masked_fill(idle, -torch.inf), shared], -1).softmax(-1)
