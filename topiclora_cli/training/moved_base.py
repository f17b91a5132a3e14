"""LoRA that starts with a part of the base's weights (PiSSA, arXiv 2404.02948; OLoRA, arXiv 2406.01775), on disk.

peft takes that part off the base, W' = W - s B0 A0, so that what trains belongs to a base that nobody else has. What is
written is a plain LoRA on the base as it was, of twice the rank: s (B A - B0 A0) = s [B, -B0] [A; A0]. It is the same
function everywhere, and tells its halves to a run that goes on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from topiclora_cli.adapters.stock import moves_base
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import read_json, write_json
from topiclora_cli.scaling import stock_law

TENSORS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_A, _B = ".lora_A.weight", ".lora_B.weight"
_BEGAN = "topiclora_began"  # of a layer: the factors that it started with, by the ends of their names in a file


def remember_start(model: PeftModel, adapter: str = "default") -> None:
    """Keep what a fresh adapter has taken off the base; does nothing for one that leaves the base alone.

    Raises TopicLoraError where the base has not that many directions, or something else reads a weight that has moved.
    """
    config: Any = model.peft_config[adapter]
    if not moves_base(vars(config)):
        return
    embedding = model.get_base_model().get_input_embeddings().weight  # type: ignore[operator, union-attr]
    for name, layer in _layers(model, adapter).items():
        base, rank = layer.get_base_layer(), layer.r[adapter]
        first: tuple[Any, Any] = (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)
        if base.weight is embedding:
            raise _refused(config, f"would alter the embedding, too, to which {name} is tied")
        if config.init_lora_weights == "olora" and isinstance(base, Conv1D):
            raise _refused(config, f"takes the weight of {name}, a Conv1D, the wrong way round; pissa does not")
        if len(first[0]) != rank:
            raise _refused(config, f"finds {len(first[0])} directions in {name}, but adapter.r is {rank}")
        setattr(layer, _BEGAN, {key: weight.detach().clone() for key, weight in zip((_A, _B), first, strict=True)})


def _refused(config: Any, reason: str) -> TopicLoraError:
    return TopicLoraError(
        f"adapter.init_lora_weights: {config.init_lora_weights} {reason}.",
        "Leave the layer out of adapter.target_modules, or change adapter.init_lora_weights or adapter.r.",
    )


def write_on_untouched_base(model: PeftModel, folder: Path, adapter: str) -> None:
    """Make of files that peft has written of `model` those of the plain LoRA on the base as it was."""
    began = _began(model, adapter)
    if not began:
        return
    tensors = load_file(folder / TENSORS)
    for key, first in began.items():
        sign, axis = (1, 0) if key.endswith(_A) else (-1, 1)
        tensors[key] = torch.cat([tensors[key], sign * first.to(tensors[key])], axis)
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    settings = read_json(folder / SETTINGS, hint="")
    rank, alpha = settings["r"], settings["lora_alpha"]
    alpha = stock_law(settings).alpha_at(2 * rank, alpha=alpha, of=rank)
    write_json(folder / SETTINGS, {**settings, "r": 2 * rank, "lora_alpha": alpha, "init_lora_weights": True})


@torch.no_grad()
def read_on_moved_base(model: PeftModel, tensors: Mapping[str, Tensor], adapter: str) -> dict[str, Tensor]:
    """What peft is to read into a model that trains, of files that `write_on_untouched_base` made.

    Where these began otherwise than this model, as another machine's decomposition may, its base is moved after them.
    """
    values = dict(tensors)
    for name, layer in _layers(model, adapter).items():
        began: dict[str, Tensor] | None = getattr(layer, _BEGAN, None)
        if began is None:
            continue
        prefix, rank = f"base_model.model.{name}", layer.r[adapter]
        (a, first_a), (b, first_b) = values[prefix + _A].split(rank), values[prefix + _B].split(rank, 1)
        values |= {prefix + _A: a.contiguous(), prefix + _B: b.contiguous()}
        here = {_A: first_a.to(began[_A]), _B: -first_b.to(began[_B])}
        if not all(torch.equal(here[key], began[key]) for key in here):
            base: Any = layer.get_base_layer()
            move = layer.scaling[adapter] * (began[_B] @ began[_A] - here[_B] @ here[_A])
            base.weight += (move.T if layer.fan_in_fan_out else move).to(base.weight)  # type: ignore[attr-defined]
            setattr(layer, _BEGAN, here)
    return values


def _began(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    """What a model's layers began with, by the keys of its files."""
    layers = _layers(model, adapter).items()
    return {
        f"base_model.model.{name}{key}": first
        for name, layer in layers
        for key, first in getattr(layer, _BEGAN, {}).items()
    }


def _layers(model: PeftModel, adapter: str) -> dict[str, LoraLayer]:
    base: nn.Module = model.get_base_model()
    return {name: m for name, m in base.named_modules() if isinstance(m, LoraLayer) and adapter in m.lora_A}
