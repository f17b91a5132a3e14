"""Puts mixture layers into a model: the tuner that peft drives."""

from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.layer import TopicLoraLayer, TopicLoraLinear
from topiclora_cli.errors import TopicLoraError


class TopicLoraModel(BaseTuner):
    """A base model whose targeted linear layers carry a mixture of LoRA experts."""

    prefix = "topiclora_"
    tuner_layer_cls = TopicLoraLayer
    target_module_mapping: dict[str, list[str]] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: TopicLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, TopicLoraLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if isinstance(target, BaseTunerLayer):
            raise TopicLoraError(f"{current_key} already carries a {type(target).__name__} of another peft method.")
        layer = TopicLoraLinear(target, adapter_name, peft_config, name=current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise TopicLoraError(
            "A routed mixture has no exact dense weight and cannot be merged.",
            "Export it with fixed gates (topiclora merge), or serve the adapter itself.",
        )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Always refuses, naming the ways out."""
        self._check_merge_allowed()
