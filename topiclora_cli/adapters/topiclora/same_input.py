"""Which linear layers of a block read the same tensor, found by a trial of two tokens.

What is found goes into the adapter's configuration: where a file is loaded a trial may be impossible, and the routers
must stand where they stood.
"""

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from topiclora_cli.adapters.roles import is_linear, run_two_tokens

Families = list[list[str]]


def same_input_families(model: nn.Module) -> Families | None:
    """Families of siblings that read one tensor, each in the order in which they run, as `block.layer` without numbers.

    Two belong together if they do in every block where both run. None where the model cannot be tried.
    """
    reads: dict[str, tuple[Any, ...]] = {}
    kept: list[Tensor] = []  # so that no storage is used again meanwhile

    def watch(name: str, x: Tensor) -> None:
        kept.append(x)
        storage = x.untyped_storage()._cdata  # on the meta device, too, where all addresses are zero
        reads.setdefault(name, (storage, x.storage_offset(), x.shape, x.stride(), x._version))

    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: watch(name, args[0]) if args else None)
        for name, module in _readers(model)
    ]
    try:
        if not run_two_tokens(model):
            return None
    finally:
        for handle in handles:
            handle.remove()
    blocks: dict[str, dict[str, tuple[Any, ...]]] = {}
    for name, key in reads.items():
        blocks.setdefault(name.rpartition(".")[0], {})[kind_of(name)] = key
    families: Families = []
    for kind in dict.fromkeys(kind for block in blocks.values() for kind in block):
        family = next((f for f in families if all(_agree(blocks, kind, member) for member in f)), None)
        if family is None:
            families.append([kind])
        else:
            family.append(kind)
    return [family for family in families if len(family) > 1]


def kind_of(name: str) -> str:
    """The layer and its block without numbers: experts.0.up_proj is an experts.up_proj."""
    return ".".join([part for part in name.split(".") if not re.fullmatch(r"\d+", part)][-2:])


def _agree(blocks: dict[str, dict[str, tuple[Any, ...]]], one: str, other: str) -> bool:
    both = [block for block in blocks.values() if one in block and other in block]
    return bool(both) and all(block[one] == block[other] for block in both)


def _readers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    adapted = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    inside = tuple(f"{name}." for name in adapted)
    return [
        (name, module)
        for name, module in model.named_modules()
        if (is_linear(module) or name in adapted) and not (inside and name.startswith(inside))
    ]
