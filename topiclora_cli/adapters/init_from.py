"""Trained stock LoRA adapters as the experts of a mixture.

Each adapter's own scaling goes into its B, so that adapters of different rank, alpha and rsLoRA meet in one
configuration whose scaling is one. A smaller rank is filled up with rows that change nothing but can be trained.
"""

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from topiclora_cli.adapters.stock import moves_base
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.scaling import stock_law

CONFIG_FILE, TENSOR_FILE = "adapter_config.json", "adapter_model.safetensors"
# What makes of a peft LoRA something else than W x + s B A x on linear layers.
_VARIANTS = ("use_dora", "use_qalora", "use_bdlora", "lora_bias", "arrow_config", "kasa_config", "monteclora_config")
_BESIDES = ("modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication")
_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_RETRAIN = "Train that adapter as a plain LoRA on linear layers, or leave it out."
_SETTINGS = "Take num_experts, r and target_modules from these adapters, and the base model they were trained on."
_SAVE = "Save that adapter again."


class Factors(NamedTuple):
    """One expert on one module: a (r_e, d_in) and b (r_e, d_out) in float32, the LoRA's scaling already in b."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, eq=False)
class LoraSources:
    """E trained LoRA adapters: their folders, and of each its factors by the module's name in the base model."""

    folders: tuple[Path, ...]
    experts: tuple[Mapping[str, Factors], ...]

    def settings(self) -> dict[str, Any]:
        """The arguments of TopicLoraConfig that make room for these experts: the largest rank, every module."""
        rank = max(len(factors.a) for expert in self.experts for factors in expert.values())
        return {
            "num_experts": len(self.experts),
            "r": rank,
            "lora_alpha": float(rank),
            "scaling": "expert",
            "use_rslora": False,
            "shared_a": False,
            "target_modules": sorted({module for expert in self.experts for module in expert}),
        }


def read_loras(folders: Sequence[str | Path]) -> LoraSources:
    """Read E local folders of stock LoRA adapters, in the order of the experts to be; their ranks may differ.

    Raises TopicLoraError for no folder at all, missing or damaged files, and adapters that are more than a LoRA on
    linear layers. Warns when the adapters name different base models.
    """
    if not folders:
        raise TopicLoraError("No LoRA adapter to start from.", "Name one folder for each expert.")
    paths = tuple(Path(folder) for folder in folders)
    configs = [_read_config(path) for path in paths]
    experts = tuple(_read_factors(path, config) for path, config in zip(paths, configs, strict=True))
    bases = {str(base) for config in configs if (base := config.get("base_model_name_or_path"))}
    if len(bases) > 1:
        warnings.warn(f"The LoRA adapters name different base models: {', '.join(sorted(bases))}.", stacklevel=2)
    return LoraSources(paths, experts)


@torch.no_grad()
def load_experts(model: PeftModel | nn.Module, sources: LoraSources, adapter_name: str = "default") -> None:
    """Make expert e of every mixture layer the e-th adapter of `sources`; where that one has none, its B is zero.

    These are the routed experts; those for every token start fresh.

    Raises TopicLoraError, and leaves the model as it was, where the model has no such adapter, lacks a module that
    was adapted, or where experts, rank or features disagree.
    """
    layers = {
        layer.name: layer
        for layer in model.modules()
        if isinstance(layer, TopicLoraLayer) and adapter_name in layer.topiclora_B
    }
    if not layers:
        raise TopicLoraError(f"The model has no mixture of LoRA experts called {adapter_name!r}.")
    for folder, expert in zip(sources.folders, sources.experts, strict=True):
        for module, factors in expert.items():
            if module not in layers:
                raise TopicLoraError(f"{folder} adapts {module}, which is no mixture layer here.", _SETTINGS)
            if adapter_name in layers[module].topiclora_start:
                raise TopicLoraError(
                    f"{folder} cannot start experts that started from the base's spectrum (init: svd).",
                    "Use init: kaiming or orthogonal.",
                )
            _check_fit(f"{folder}: {module}", layers[module], adapter_name, factors, len(sources.experts))
    for name, layer in layers.items():
        lora_a, lora_b = (next(part[adapter_name].parameters()) for part in (layer.topiclora_A, layer.topiclora_B))
        scaling = layer.topiclora_config[adapter_name].scale
        # Spare ranks keep the A they were initialised with: were both factors zero, neither would get a gradient.
        lora_b.zero_()
        for index, expert in enumerate(sources.experts):
            if name in expert:
                trained = expert[name]
                lora_a[index, : len(trained.a)].copy_(trained.a)
                lora_b[index, : len(trained.b)].copy_(trained.b / scaling)


def _check_fit(where: str, layer: TopicLoraLayer, adapter_name: str, factors: Factors, experts: int) -> None:
    lora_a, lora_b = layer.routed_factors(adapter_name)
    if len(lora_a) != experts or len(lora_b) != experts:
        shared = " that share one A" if layer.topiclora_config[adapter_name].shared_a else ""
        raise TopicLoraError(f"{where} has {len(lora_b)} experts{shared} here, for {experts} adapters.", _SETTINGS)
    if len(factors.a) > lora_a.shape[1]:
        raise TopicLoraError(f"{where} has rank {len(factors.a)}, but r is {lora_a.shape[1]} here.", _SETTINGS)
    trained, here = (factors.a.shape[1], factors.b.shape[1]), (lora_a.shape[2], lora_b.shape[2])
    if trained != here:
        message = f"{where} maps {trained[0]} to {trained[1]} features, but {here[0]} to {here[1]} here."
        raise TopicLoraError(message, "That adapter was trained on another base model.")


def _read_config(folder: Path) -> dict[str, Any]:
    for name in (CONFIG_FILE, TENSOR_FILE):
        if not (folder / name).is_file():
            raise TopicLoraError(f"{folder} has no {name}.", "Name local folders as peft saves them, with safetensors.")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise TopicLoraError(f"{folder / CONFIG_FILE} is not JSON: {error}.", _SAVE) from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise TopicLoraError(f"{folder}: peft_type is {kind!r}, not 'LORA'.", "Only stock LoRA adapters can be read.")
    for key in (*_VARIANTS, *_BESIDES, "alora_invocation_tokens"):
        if config.get(key):
            raise TopicLoraError(f"{folder}: {key} is set.", _RETRAIN)
    if config.get("bias", "none") != "none":
        raise TopicLoraError(f"{folder}: bias is {config['bias']!r}, not 'none'.", _RETRAIN)
    if moves_base(config):
        message = f"{folder}: init_lora_weights is {config['init_lora_weights']!r}, which alters the base model."
        raise TopicLoraError(message, "Save it as a plain LoRA (path_initial_model_for_weight_conversion).")
    return config  # type: ignore[no-any-return]


def _read_factors(folder: Path, config: Mapping[str, Any]) -> dict[str, Factors]:
    try:
        tensors = load_file(folder / TENSOR_FILE)
    except SafetensorError as error:
        raise TopicLoraError(f"{folder / TENSOR_FILE} is damaged: {error}.", _SAVE) from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _FACTOR.fullmatch(key)
        if match is None or tensor.dim() != 2 or "experts" in match["module"].split("."):
            raise TopicLoraError(f"{folder}: {key} is not the LoRA of a linear layer.", _RETRAIN)
        if not tensor.float().isfinite().all():
            raise TopicLoraError(f"{folder}: {key} holds NaN or infinity.", "Train that adapter again.")
        found.setdefault(match["module"], {})[match["factor"]] = tensor.float()
    if not found:
        raise TopicLoraError(f"{folder / TENSOR_FILE} holds no LoRA.", _SAVE)
    return {module: _scaled(folder, config, module, pair) for module, pair in found.items()}


def _scaled(folder: Path, config: Mapping[str, Any], module: str, pair: Mapping[str, Tensor]) -> Factors:
    if len(pair) < 2:
        raise TopicLoraError(f"{folder}: {module} has lora_{min(pair)} only.", _SAVE)
    rank = _setting(folder, config, "r", "rank_pattern", module)
    alpha = _setting(folder, config, "lora_alpha", "alpha_pattern", module)
    if not 1 <= len(pair["A"]) == pair["B"].shape[1] == rank:
        ranks = f"{len(pair['A'])} in lora_A and {pair['B'].shape[1]} in lora_B"
        raise TopicLoraError(f"{folder}: {module} has rank {ranks}, but r is {rank}.", _SAVE)
    scaling = stock_law(config).scale(alpha, len(pair["A"]))
    return Factors(pair["A"], pair["B"].T * scaling)


def _setting(folder: Path, config: Mapping[str, Any], key: str, pattern_key: str, module: str) -> float:
    value = patterns = config.get(pattern_key) or {}
    if isinstance(patterns, dict):
        value = patterns.get(get_pattern_key(list(patterns), module), config.get(key))
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TopicLoraError(f"{folder}: {key} or {pattern_key} gives {value!r} for {module}.", "Mend its config.")
    return value
