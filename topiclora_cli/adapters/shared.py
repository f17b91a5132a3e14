"""Experts that every token passes through, beside the routed ones: how many there may be, and what their gates are.

They stand behind the routed ones in every tensor, so that index e is the routed expert e throughout. Topics, keys,
priors and the losses on routing are about the routed ones alone (DeepSeekMoE, arXiv 2401.06066).
"""

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
