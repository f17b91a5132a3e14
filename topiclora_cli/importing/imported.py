"""What a format's converter is asked, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from topiclora_cli.adapters.perft import PerftConfig
from topiclora_cli.adapters.topiclora import TopicLoraConfig


@dataclass(frozen=True)
class Asked:
    """What no file of some formats says: experts for each token; the task and the router's temperature of a SAMoRA."""

    top_k: int | None = None
    task: int | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Imported:
    """An adapter of ours that computes what a checkpoint did.

    method: the recipe's name for it. tensors: by the keys of adapter_model.safetensors. notes: what is to be told.
    """

    method: str
    config: TopicLoraConfig | PerftConfig
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
