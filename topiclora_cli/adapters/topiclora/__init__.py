"""The mixture-of-LoRA-experts method: configuration, layer, model."""

from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.layer import TopicLoraLayer
from topiclora_cli.adapters.topiclora.linear import TopicLoraLinear
from topiclora_cli.adapters.topiclora.model import TopicLoraModel

__all__ = ["TopicLoraConfig", "TopicLoraLayer", "TopicLoraLinear", "TopicLoraModel"]
