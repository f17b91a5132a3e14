"""HydraLoRA, LoRAMoE, LD-MoLE and MoLA: forks of peft of 2023, told from a plain LoRA by their keys alone."""

from typing import Any

from topiclora_cli.adapters.topiclora.scope import layer_index
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.base import Base
from topiclora_cli.importing.checkpoint import Checkpoint
from topiclora_cli.importing.imported import Asked, Imported
from topiclora_cli.importing.keys import Sorted, Table
from topiclora_cli.importing.mixture import Linear, build

_P = "base_model.model.{module}."
_HYDRALORA: Table = {
    "a": _P + "lora_A.weight",
    "b": _P + "lora_B{expert}.weight",
    "router": _P + "lora_route.weight",
}
_LORAMOE: Table = {**_HYDRALORA, "a": _P + "lora_A{expert}.weight"}
_MOLA: Table = {
    "a": _P + "lora_A_{expert}.weight",
    "b": _P + "lora_B_{expert}.weight",
    "router": _P + "router.router.weight",
}
MOLA_TOP_K = 2  # the authors' own default, for every layer


def hydralora(checkpoint: Checkpoint, _: Asked, base: Base) -> Imported:
    """HydraLoRA (arXiv 2404.19245): one A, several B, a dense softmax."""
    return _dense("hydralora", "HydraLoRA", checkpoint, base, _HYDRALORA, shared_a=True)


def loramoe(checkpoint: Checkpoint, _: Asked, base: Base) -> Imported:
    """LoRAMoE (arXiv 2312.09979), and LD-MoLE (arXiv 2509.25684) without its own router."""
    sparsegen = checkpoint.settings.get("sparsegen_cfg") or {}
    if sparsegen.get("enabled") or any(".sparsegen." in key for key in checkpoint.tensors):
        raise TopicLoraError(
            f"{checkpoint.file} is an LD-MoLE with its sparsegen router, whose network all layers share.",
            "An adapter keeps its state in its layers, so it cannot be imported.",
        )
    return _dense("loramoe", "LoRAMoE", checkpoint, base, _LORAMOE, shared_a=False)


def mola(checkpoint: Checkpoint, asked: Asked, base: Base) -> Imported:
    """MoLA (arXiv 2402.08562): numbers of experts and ranks by layer; top_k is not in the file."""
    ranks, alpha = checkpoint.setting("r", list), checkpoint.setting("lora_alpha", (int, float))
    found = Sorted(checkpoint, _MOLA, of="MoLA")
    for module in found.modules:
        gate = found.modules[module].get("router")
        count = len(gate[0]) if gate else 1 + max(max(each) for each in found.modules[module].values())
        found.require(module, {"a": count, "b": count, "router": None})
    found.complete()
    linears = {}
    for module in found.modules:
        layer = layer_index(module) or 0
        if layer >= len(ranks):
            raise TopicLoraError(f"{checkpoint.file} adapts {module}, and its r has {len(ranks)} numbers, one a layer.")
        a, b, router = found.each(module, "a"), found.each(module, "b"), found.one(module, "router")
        linears[module] = Linear.scaled(a, b, alpha, ranks[layer], weight=router)
    top_k = asked.top_k or MOLA_TOP_K
    settings = {
        "lora_alpha": float(alpha),
        "lora_dropout": checkpoint.settings.get("lora_dropout") or 0.0,
        **top_k_settings(top_k),
        "router": "linear",
    }
    made = build("mola", linears, base, found.whole, **settings)
    note = f"Its file does not say how many experts a token meets; {top_k} it is, as in the authors' code (--top-k)."
    return made if asked.top_k else Imported(made.method, made.config, made.tensors, (note,))


def top_k_settings(top_k: int) -> dict[str, Any]:
    """The weights of the top_k experts made to sum to one, also that of a single one."""
    return {"top_k": top_k, "gate_weights": "constant" if top_k == 1 else "renormalised"}


def _dense(method: str, title: str, checkpoint: Checkpoint, base: Base, table: Table, *, shared_a: bool) -> Imported:
    experts, rank = checkpoint.setting("lora_nums", int), checkpoint.setting("r", int)
    alpha = checkpoint.setting("lora_alpha", (int, float))
    found = Sorted(checkpoint, table, of=title)
    for module in found.modules:
        found.require(module, {"a": None if shared_a else experts, "b": experts, "router": None})
    found.complete()
    linears = {
        module: Linear.scaled(
            found.each(module, "a"), found.each(module, "b"), alpha, rank, weight=found.one(module, "router")
        )
        for module in found.modules
    }
    dropout = checkpoint.settings.get("lora_dropout") or 0.0
    settings = {"lora_alpha": float(alpha), "lora_dropout": dropout, "shared_a": shared_a, "router": "linear"}
    return build(method, linears, base, found.whole, **settings)
