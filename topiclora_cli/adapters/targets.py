"""Which linear layers a method adapts: names, or roles that are looked up in the model."""

import re
from collections.abc import Callable, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from topiclora_cli.adapters.moe_blocks import base_routers
from topiclora_cli.adapters.topiclora.scope import in_feed_forward, is_output, layer_index
from topiclora_cli.errors import TopicLoraError, nearest

ROLES: dict[str, Callable[[str], bool]] = {
    "all-linear": lambda name: True,
    "attention": lambda name: layer_index(name) is not None and not in_feed_forward(name),
    "feed-forward": in_feed_forward,
    "outputs": is_output,
}


def resolve_targets(model: nn.Module, wanted: str | Sequence[str], *, key: str = "target_modules") -> str | list[str]:
    """Names of layers for peft: a role becomes the names it stands for; names are checked; a regex stays as it is.

    Raises TopicLoraError for a name or a role that matches nothing in the model.
    """
    names = linear_layers(model)
    if isinstance(wanted, str):
        if wanted.lower() in ROLES:
            chosen = [name for name in names if ROLES[wanted.lower()](name)]
            _require(bool(chosen), f"adapter.{key}: {wanted!r}", wanted, names)
            return _shortest(chosen, names)
        known = any(re.fullmatch(wanted, name) for name, _ in model.named_modules())
        _require(known, f"adapter.{key}: {wanted!r}", wanted, names)
        return wanted
    for short in wanted:
        found = any(name == short or name.endswith("." + short) for name, _ in model.named_modules())
        _require(found, f"adapter.{key}: {short!r}", short, names)
    return list(wanted)


def linear_layers(model: nn.Module) -> list[str]:
    """Every linear layer but the output head and the routers of a sparse base model."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    routers = tuple("." + name for name in base_routers(model))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and not f".{name}".endswith(routers)
    ]


def _require(found: bool, what: str, name: str, names: Sequence[str]) -> None:
    if not found:
        leaves = sorted({name.rpartition(".")[2] for name in names})
        hint = nearest(name, [*leaves, *ROLES]) if name.isidentifier() else ""
        raise TopicLoraError(
            f"{what} matches nothing in the model.", f"{hint} Its linear layers: {', '.join(leaves)}.".strip()
        )


def _shortest(chosen: Sequence[str], names: Sequence[str]) -> list[str]:
    """The shortest endings of the chosen names that fit none of the others."""
    others = [f".{name}" for name in names if name not in set(chosen)]
    endings = set()
    for name in chosen:
        parts = name.split(".")
        tails = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        endings.add(next(tail for tail in tails if not any(other.endswith("." + tail) for other in others)))
    return sorted(endings)
