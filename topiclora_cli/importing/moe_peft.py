"""MoE-PEFT's adapters (MoLA, LoRAMoE, MixLoRA), and MixLoRA as the package of that name and as its first version save.

One prefix tells the kind. Layers are numbered, and called as transformers calls those of Llama, Gemma, Qwen2, Mistral
and Phi.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from topiclora_cli.adapters.topiclora.scope import in_feed_forward, reading_order
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.base import Base
from topiclora_cli.importing.checkpoint import Checkpoint
from topiclora_cli.importing.forks import top_k_settings
from topiclora_cli.importing.imported import Asked, Imported
from topiclora_cli.importing.keys import Sorted, Table
from topiclora_cli.importing.mixture import Linear, build

_MODEL = "model."  # what transformers' names begin with, and these do not
_PLAIN = ("plain_a", "plain_b")
_LLAMA = {"gate_proj", "up_proj", "down_proj"}
_FIRST_NAMES = {"w1_proj": "gate_proj", "w2_proj": "down_proj", "w3_proj": "up_proj"}
_FIRST_EXPERT = re.compile(r"(mixlora\.layers\.\d+)\.experts\.(\d+)\.(\w+)\.(lora_[AB]\.weight)")
_FIRST_GATE = re.compile(r"(mixlora\.layers\.\d+)\.gate\.weight")
_NOT_REPRESENTED = {
    "mixlora-dynamic": "its gates, chosen by top-p, do not sum to one and shrink what the base's own block computes",
    "mixlora-switch": "it drops the tokens beyond an expert's capacity, by what else is in the batch",
}


def moe_peft(checkpoint: Checkpoint, asked: Asked, base: Base) -> Imported:
    """Any of MoE-PEFT's."""
    kind = next(iter(checkpoint.tensors)).partition(".")[0]
    if kind == "mixlora":
        return mixlora(checkpoint, asked, base)
    title = {"mola": "MoE-PEFT's MoLA", "loramoe": "MoE-PEFT's LoRAMoE"}[kind]
    found = Sorted(checkpoint, _table(kind), of=title)
    experts = checkpoint.setting("num_experts", int)
    for module, parts in found.modules.items():
        found.require(module, dict.fromkeys(_PLAIN) if _is_plain(parts) else {**_experts(experts), "router": None})
    found.complete()
    scale = _scale(checkpoint, checkpoint.settings)
    linears = {}
    for module, parts in found.modules.items():
        made = _linear(found, module, scale)
        router = {} if _is_plain(parts) else {"weight": found.one(module, "router")}
        linears[_MODEL + module] = replace(made, router=router)
    chosen: dict[str, Any] = top_k_settings(checkpoint.settings.get("top_k") or 2) if kind == "mola" else {}
    return build(kind, linears, base, **_settings(checkpoint.settings), router="linear", **chosen)


def mixlora(checkpoint: Checkpoint, _: Asked, base: Base) -> Imported:
    """MixLoRA (arXiv 2404.15159): experts mixed behind the feed-forward block's non-linearity, plain LoRA elsewhere."""
    routing = checkpoint.settings.get("routing_strategy") or ""
    if reason := _NOT_REPRESENTED.get(routing):
        raise TopicLoraError(
            f"{checkpoint.file} cannot be imported ({routing}): {reason}.", "MixLoRA with top-k routing can."
        )
    checkpoint = replace(checkpoint, tensors={_renamed(key): value for key, value in checkpoint.tensors.items()})
    found = Sorted(checkpoint, _table("mixlora"), of="MixLoRA")
    own = {**checkpoint.settings, **(checkpoint.settings.get("expert_lora") or {})}
    experts, activation = checkpoint.setting("num_experts", int), checkpoint.settings.get("act_fn")
    blocks = {module.rpartition(".")[0] for module in found.modules if in_feed_forward(module)}
    blocks |= set(found.names("router"))
    for module in found.modules:
        if module not in blocks:
            found.require(module, _experts(experts) if in_feed_forward(module) else dict.fromkeys(_PLAIN))
    for block in blocks:
        found.modules.setdefault(block, {})
        found.require(block, {"router": None})
    found.complete()
    _check_activation(checkpoint, activation, base)
    linears = {}
    for module in (module for module in found.modules if module not in blocks):
        settings = own if in_feed_forward(module) else checkpoint.settings
        linears[_MODEL + module] = _linear(found, module, _scale(checkpoint, settings))
    for block in blocks:
        linears |= _whole_block(_MODEL + block, linears, found.one(block, "router"), base, checkpoint)
    top_k = checkpoint.settings.get("top_k") or 2
    mixing: dict[str, Any] = {"mixing": "ffn", "router": "linear", "router_scope": "block", **top_k_settings(top_k)}
    return build("mixlora", linears, base, **_settings(own), **mixing)


def _table(kind: str) -> Table:
    return {
        "a": kind + ".{module}.experts.{expert}.lora_A.weight",
        "b": kind + ".{module}.experts.{expert}.lora_B.weight",
        "router": kind + ".{module}.moe_gate.weight",
        "plain_a": kind + ".{module}.lora_A.weight",
        "plain_b": kind + ".{module}.lora_B.weight",
    }


def _is_plain(parts: Mapping[str, Any]) -> bool:
    return bool(parts.keys() & set(_PLAIN))


def _experts(number: int) -> dict[str, int | None]:
    return {"a": number, "b": number}


def _linear(found: Sorted, module: str, scale: float) -> Linear:
    parts = _PLAIN if _is_plain(found.modules[module]) else ("a", "b")
    return Linear.of(found.each(module, parts[0]), found.each(module, parts[1]), scale)


def _scale(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> float:
    if settings.get("use_dora"):
        raise TopicLoraError(
            f"{checkpoint.file} has DoRA in it, whose magnitudes belong to no mixture here, and its file lacks them.",
            "Only plain LoRA and rsLoRA experts can be imported.",
        )
    alpha, rank = (replace(checkpoint, settings=settings).setting(key, (int, float)) for key in ("lora_alpha", "r"))
    return float(alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    law = "sqrt" if settings.get("use_rslora") else "expert"
    alpha, dropout = float(settings["lora_alpha"]), settings.get("lora_dropout") or 0.0
    return {"lora_alpha": alpha, "scaling": law, "lora_dropout": dropout, "expert_dropout": "own"}


def _whole_block(
    block: str, linears: Mapping[str, Linear], gate: Tensor, base: Base, checkpoint: Checkpoint
) -> dict[str, Linear]:
    """The layers of a feed-forward block, those that the checkpoint leaves out with a B of zeros, the first with the
    router."""
    there = {name: linear for name, linear in linears.items() if name.startswith(f"{block}.")}
    sizes = base.linears(block)
    if not sizes and {name.rpartition(".")[2] for name in there} != _LLAMA:
        raise TopicLoraError(
            f"{checkpoint.file} may leave out a projection of {block}, and what that looks like is the base's to say. "
            f"{base.reason}",
            "Name a base within reach with --base.",
        )
    for name in sizes.keys() - there.keys():
        like = next(iter(there.values()), None)
        rank, scale = (like.rank, like.scale) if like is not None else (1, 1.0)
        d_in, d_out = sizes[name]
        there[name] = Linear(torch.zeros(len(gate), rank, d_in), torch.zeros(len(gate), rank, d_out), scale)
    first = reading_order(list(there))[0]
    return {**there, first: replace(there[first], router={"weight": gate})}


def _check_activation(checkpoint: Checkpoint, activation: str | None, base: Base) -> None:
    own = getattr(getattr(base.model, "config", None), "hidden_act", None)
    if activation is not None and own is not None and activation != own:
        raise TopicLoraError(
            f"{checkpoint.file} computes its experts with act_fn {activation}, and {base.name} with {own}.",
            "A feed-forward block here has one activation, the base's.",
        )


def _renamed(key: str) -> str:
    """A key of MixLoRA's first version (routing_strategy mixtral) as the later ones have it."""
    if match := _FIRST_EXPERT.fullmatch(key):
        layer, expert, name, rest = match.groups()
        return f"{layer}.mlp.{_FIRST_NAMES.get(name, name)}.experts.{expert}.{rest}"
    return _FIRST_GATE.sub(r"\1.mlp.moe_gate.weight", key)
