"""What an adapter trains beside its experts, taken along into an export, or refused where it cannot be."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, get_peft_model_state_dict
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn

from topiclora_cli.errors import TopicLoraError

EXPORT = "default"
_SETTINGS = ("modules_to_save", "trainable_token_indices")


@dataclass(frozen=True)
class Carried:
    """Whole modules and single tokens that an adapter trained, by their names in the model; whole, tokens: as peft's
    configuration names them."""

    whole: list[str] | None
    tokens: list[int] | dict[str, list[int]] | None
    modules: dict[str, nn.Module]
    rows: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, routed: PeftModel, adapter: str, *, prefix: str) -> "Carried":
        """Copies of what `adapter` trained; prefix: how the names of the experts' own tensors begin.

        Raises TopicLoraError, naming it, for anything else that the adapter would save.
        """
        config = routed.peft_config[adapter]
        whole, indices = (copy.deepcopy(getattr(config, key, None)) for key in _SETTINGS)
        wrappers = {name: m for name, m in routed.named_modules() if isinstance(m, AuxiliaryTrainingWrapper)}
        modules: dict[str, nn.Module] = {}
        rows: dict[str, Tensor] = {}
        for name, module in wrappers.items():
            if isinstance(module, ModulesToSaveWrapper):
                modules[name] = copy.deepcopy(module.modules_to_save[adapter])
            elif isinstance(module, TrainableTokensWrapper):
                trained: Any = module.token_adapter.trainable_tokens_delta[adapter]
                rows[name] = trained.detach().clone()
            else:
                raise _cannot(name)
        saved = get_peft_model_state_dict(routed, adapter_name=adapter, save_embedding_layers=False)
        for key in saved:
            if f".{prefix}" not in key and not any(key.startswith(name) for name in wrappers):
                raise _cannot(key)
        return cls(whole, indices, modules, rows)

    def make_room(self, config: LoraConfig) -> LoraConfig:
        """The configuration, now with a place for them."""
        config.modules_to_save, config.trainable_token_indices = self.whole, self.tokens
        return config

    @torch.no_grad()
    def put_into(self, lora: PeftModel) -> None:
        """Copy them into an export whose configuration has room; raises TopicLoraError where it has none."""
        there = dict(lora.named_modules())
        for name, module in self.modules.items():
            if not isinstance(target := there.get(name), ModulesToSaveWrapper):
                raise _cannot(name)
            target.modules_to_save[EXPORT] = copy.deepcopy(module)
        for name, values in self.rows.items():
            if not isinstance(tokens := there.get(name), TrainableTokensWrapper):
                raise _cannot(name)
            delta: Any = tokens.token_adapter.trainable_tokens_delta[EXPORT]
            delta.copy_(values)


def _cannot(name: str) -> TopicLoraError:
    return TopicLoraError(f"A plain LoRA cannot carry {name}, which the adapter trains.", "Serve the adapter itself.")
