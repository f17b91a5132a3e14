"""Which adapted layers share a router.

`linear`: each has its own. `group`: those that read the same tensor (same_input.py). `block`: one in each
attention and each feed-forward block. `layer`: one in each decoder layer. The member that runs first owns the router
and its parameters; the others take its decision during the same forward pass.
"""

import re
from collections.abc import Sequence

from torch import nn

from topiclora_cli.adapters.topiclora.same_input import kind_of

SCOPES = ("linear", "group", "block", "layer")
# What reads the same tensor by the usual names, where a trial is impossible and in files from before there was one;
# each in the order in which its members run, whatever the order of their definition.
USUAL_FAMILIES = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("query", "key", "value"),
    ("wq", "wk", "wv"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
)
_OUTPUTS = {
    *("o_proj", "out_proj", "c_proj", "dense", "down_proj", "dense_4h_to_h", "fc_out", "fc2", "wo", "w2"),
    *("linear_out", "output_linear", "proj_down"),
}
_CROSS_ATTENTION = re.compile(r"cross|enc(oder)?_?(dec(oder)?)?_?att(n|ention)", re.IGNORECASE)
_FEED_FORWARD = {"mlp", "ffn", "feed_forward", "shared_expert", "shared_experts"}


def layer_index(name: str) -> int | None:
    """The number of the decoder layer that a module name belongs to, None outside of any."""
    match = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(match.group(1)) if match else None


def count_layers(model: nn.Module) -> int:
    """Number of decoder layers, by the numbers in module names."""
    return 1 + max((layer_index(name) or 0 for name, _ in model.named_modules()), default=0)


def scope_key(name: str, scope: str, families: Sequence[Sequence[str]] = USUAL_FAMILIES) -> str:
    """What the members of a group have in common; families: what reads the same tensor, as `block.layer` or `layer`."""
    parent = name.rpartition(".")[0]
    if scope == "layer" and (match := re.match(r"((?:[^.]+\.)*?\d+)\.", name)):
        return match.group(1)
    if scope in ("block", "layer"):
        return parent
    if scope == "group":
        found = _place(name, families)
        return name if found is None else f"{parent}.{found[0]}"
    return name


def in_feed_forward(name: str) -> bool:
    """Whether the layer is part of a feed-forward block."""
    return name.rpartition(".")[0].rpartition(".")[2] in _FEED_FORWARD


def in_cross_attention(name: str) -> bool:
    """Whether the layer is part of attention to another sequence, whose keys and values read what queries do not."""
    return any(_CROSS_ATTENTION.search(part) for part in name.split(".")[:-1])


def is_output(name: str) -> bool:
    """Whether the layer is its block's last, by the usual names."""
    return name.rpartition(".")[2] in _OUTPUTS


def reading_order(names: Sequence[str], families: Sequence[Sequence[str]] = USUAL_FAMILIES) -> list[str]:
    """Names in the order in which the layers run: blocks as defined, the output projection of each last."""
    parents = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    return sorted(
        names, key=lambda name: (parents.index(name.rpartition(".")[0]), is_output(name), _rank(name, families))
    )


def _rank(name: str, families: Sequence[Sequence[str]]) -> int:
    found = _place(name, families)
    return 0 if found is None else found[1]


def _place(name: str, families: Sequence[Sequence[str]]) -> tuple[str, int] | None:
    """The first member of the family that the layer is of, and the layer's place in it."""
    for known in (kind_of(name), name.rpartition(".")[2]):
        for family in families:
            if known in family:
                return family[0].rpartition(".")[2], family.index(known)
    return None
