"""Adapter files of the first format, whose A and B were bare parameters: `...topiclora_A`, not `...topiclora_A.weight`.

They are renamed wherever tensors come in: peft maps a file's keys to the model's (tuner.py), a layer takes in a model's
whole state (weights.py), transformers renames keys by its own table.
"""

import re
from collections.abc import Mapping

from torch import Tensor
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

FORMAT = 2  # of the files written now; those of the first format do not say which they are
_PREFIXES = ("topiclora_", "perft_")
_BARE = re.compile(rf"(?:^|\.)(?:{'|'.join(_PREFIXES)})[AB]$")
_BARE_OF_ADAPTER = re.compile(rf"(?:^|\.)(?:{'|'.join(_PREFIXES)})[AB]\.[^.]+$")
_TABLE = "legacy"  # transformers' renamings for every model


def renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter file's tensors, whose keys bear no adapter's name, under today's keys."""
    return {f"{key}.weight" if _BARE.search(key) else key: tensor for key, tensor in state_dict.items()}


def rename_within(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Rename, in place, those of a model's tensors that start with `prefix`; their keys bear the adapter's name."""
    for key in [key for key in state_dict if key.startswith(prefix) and _BARE_OF_ADAPTER.fullmatch(key[len(prefix) :])]:
        state_dict[f"{key}.weight"] = state_dict.pop(key)


def have_transformers_rename() -> None:
    """Have transformers' own doors read the first format; doing so twice changes nothing."""
    # transformers has put the adapter's name into the key by then.
    ours = [WeightRenaming(rf"({prefix}[AB]\.[^.]+)(?!.)", r"\1.weight") for prefix in _PREFIXES]
    table = get_checkpoint_conversion_mapping(_TABLE) or []
    known = [pattern for entry in table for pattern in entry.source_patterns]
    missing = [entry for entry in ours if entry.source_patterns[0] not in known]
    if missing:
        register_checkpoint_conversion_mapping(_TABLE, [*table, *missing], overwrite=True)
