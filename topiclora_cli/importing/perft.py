"""PERFT (arXiv 2508.02587) as its authors' training script saves it: the trainable tensors alone, beside a config.json.

On OLMoE their code weighs routed adapters with the base router's weights, on Mixtral with those of PERFT's own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from topiclora_cli.adapters.perft import PerftConfig
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.base import Base
from topiclora_cli.importing.checkpoint import Checkpoint
from topiclora_cli.importing.imported import Asked, Imported
from topiclora_cli.importing.keys import Sorted
from topiclora_cli.importing.mixture import PREFIX

_BLOCK = re.compile(r"(.+\.)block_sparse_moe$")  # what transformers called Mixtral's block until version 5
_UNITS = {"LoRA": ("lora_A", "lora_B"), "Parallel_Adapter": ("adapter_w1", "adapter_w2")}
_PLACES = {
    "routed": "{module}.shared_routing_adapter.{expert}.unit.",
    "dense": "{module}.shared_adapter.{expert}.unit.",
    "embedded": "{module}.experts.{expert}.embedded_routing_adapter.unit.",
}
_GATE = "{module}.shared_routing_adapter_gate.weight"
_METHODS = {"routed": "perft-r", "dense": "perft-d", "shared": "perft-s", "embedded": "perft-e"}


@dataclass(frozen=True)
class _Variant:
    """Which variant the settings name, how many adapters it has, and how many of them a token meets."""

    name: str
    adapters: int
    top_k: int


def perft(checkpoint: Checkpoint, _: Asked, base: Base) -> Imported:
    """Any variant on OLMoE or Mixtral."""
    olmoe, variant = checkpoint.settings.get("model_type") == "olmoe-adapter", _variant(checkpoint)
    prefix = "dense" if variant.name == "shared" else variant.name
    unit, arguments = _unit(checkpoint, prefix)
    down, up = _UNITS[unit]
    table = {"down": f"{_PLACES[prefix]}{down}.weight", "up": f"{_PLACES[prefix]}{up}.weight"}
    if variant.name == "routed":
        table["router"] = _GATE
    found = Sorted(checkpoint, table, of=f"PERFT's {variant.name} variant")
    for module in found.modules:
        parts: dict[str, int | None] = {"down": variant.adapters, "up": variant.adapters}
        found.require(module, {**parts, "router": None} if "router" in table else parts)
    found.complete()
    tensors: dict[str, Tensor] = {}
    for module in found.modules:
        name = PREFIX + _today(module)
        tensors[f"{name}.perft_A.weight"] = torch.stack(found.each(module, "down"))
        tensors[f"{name}.perft_B.weight"] = torch.stack([each.T for each in found.each(module, "up")]).contiguous()
        if "router" in table:
            tensors[f"{name}.perft_router.weight"] = found.one(module, "router").float()
    config = PerftConfig(
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base.name,
        variant=variant.name,
        num_adapters=variant.adapters,
        top_k=variant.top_k,
        target_modules=sorted(map(_today, found.modules)),
        **arguments,
        **(_weights(olmoe) if variant.name == "routed" else {}),
    )
    return Imported(_METHODS[variant.name], config, tensors)


def _today(block: str) -> str:
    """A block's name in today's transformers."""
    return _BLOCK.sub(r"\1mlp", block)


def _weights(olmoe: bool) -> dict[str, Any]:
    return {"router_weight_source": "pretrained"} if olmoe else {"renormalize": "on"}


def _variant(checkpoint: Checkpoint) -> _Variant:
    settings = checkpoint.settings
    if settings.get("shared_adapter"):
        number = checkpoint.setting("shared_adapter_num", int)
        return _Variant("shared" if number == 1 else "dense", number, number)
    if settings.get("shared_routing_adapter"):
        number, top_k = (
            checkpoint.setting(f"shared_routing_adapter_num_experts{end}", int) for end in ("", "_per_tok")
        )
        return _Variant("routed", number, top_k)
    if settings.get("embedded_routing_adapter"):
        experts = settings.get("num_experts") or settings.get("num_local_experts")
        if not isinstance(experts, int):
            experts = checkpoint.setting("num_local_experts", int)
        return _Variant("embedded", experts, 1)
    raise TopicLoraError(
        f"The configuration of {checkpoint.file} switches none of PERFT's variants on.",
        "Put the config.json that it was saved with beside it.",
    )


def _unit(checkpoint: Checkpoint, prefix: str) -> tuple[str, Mapping[str, Any]]:
    """The kind of adapter, and what of our configuration its arguments are."""
    stem = {"routed": "shared_routing_adapter", "dense": "shared_adapter", "embedded": "embedded_routing_adapter"}[
        prefix
    ]
    kind, arguments = checkpoint.setting(f"{stem}_type", str), checkpoint.setting(f"{stem}_args", dict)
    if kind not in _UNITS:
        raise TopicLoraError(f"{stem}_type is {kind!r} in the configuration.", f"Known: {', '.join(_UNITS)}.")
    within = replace(checkpoint, settings=arguments)
    if kind == "LoRA":
        dropout, alpha = arguments.get("lora_dropout") or 0.0, within.setting("lora_alpha", (int, float))
        return kind, {"r": within.setting("r", int), "lora_alpha": float(alpha), "lora_dropout": dropout}
    if arguments.get("hidden_act", "silu") != "silu":
        raise TopicLoraError(
            f"{checkpoint.file} has adapters with {arguments['hidden_act']} in them; those here have SiLU.",
            "Nothing was imported.",
        )
    width, dropout = within.setting("hidden_dim", int), arguments.get("dropout") or 0.0
    return kind, {"adapter_type": "parallel", "r": width, "lora_dropout": dropout}
