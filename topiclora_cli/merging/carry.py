"""What an adapter trains beside its experts, taken along into an export, or refused where it cannot be."""

import copy
from typing import Any

import torch
from peft import PeftModel
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, get_peft_model_state_dict
from peft.utils.other import TrainableTokensWrapper

from topiclora_cli.errors import TopicLoraError

EXPORT = "default"
_SETTINGS = ("modules_to_save", "trainable_token_indices")


def carried_settings(routed: PeftModel, adapter: str) -> dict[str, Any]:
    """The settings of a LoraConfig that make room for what `carry` copies."""
    config = routed.peft_config[adapter]
    return {key: copy.deepcopy(value) for key in _SETTINGS if (value := getattr(config, key, None)) is not None}


@torch.no_grad()
def carry(routed: PeftModel, adapter: str, lora: PeftModel, *, prefix: str) -> None:
    """Copy the whole modules and the single tokens that `adapter` trained into the export.

    prefix: how the names of the experts' own tensors begin. Raises TopicLoraError, naming it, for anything else that
    the adapter would save.
    """
    wrappers = {name: module for name, module in routed.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)}
    there = dict(lora.named_modules())
    for name, module in wrappers.items():
        target: Any = there.get(name)
        if isinstance(module, ModulesToSaveWrapper) and type(target) is type(module):
            target.modules_to_save[EXPORT] = copy.deepcopy(module.modules_to_save[adapter])
        elif isinstance(module, TrainableTokensWrapper) and type(target) is type(module):
            trained: Any = module.token_adapter.trainable_tokens_delta[adapter]
            target.token_adapter.trainable_tokens_delta[EXPORT].copy_(trained)
        else:
            raise _cannot(name)
    saved = get_peft_model_state_dict(routed, adapter_name=adapter, save_embedding_layers=False)
    for key in saved:
        if f".{prefix}" not in key and not any(key.startswith(name) for name in wrappers):
            raise _cannot(key)


def _cannot(name: str) -> TopicLoraError:
    return TopicLoraError(f"A plain LoRA cannot carry {name}, which the adapter trains.", "Serve the adapter itself.")
