"""AdaMoLE and its sibling MoLE (arXiv 2405.00361), as their repository saves them."""

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.base import Base
from topiclora_cli.importing.checkpoint import Checkpoint
from topiclora_cli.importing.forks import top_k_settings
from topiclora_cli.importing.imported import Asked, Imported
from topiclora_cli.importing.keys import Sorted
from topiclora_cli.importing.mixture import Linear, build

_P = "base_model.model.{module}."
_TOP_K = {
    "a": _P + "lora_A.{expert}.weight",
    "b": _P + "lora_B.{expert}.weight",
    "weight": _P + "lora_gating.weight",
}
_THRESHOLD = {
    **_TOP_K,
    "threshold_weight": _P + "lora_threshold.weight",
    "threshold_bias": _P + "lora_threshold.bias",
}
_TWICE = _P + "moe_layer.{any}"  # the same tensors, seen through the module that mixes them


def adamole(checkpoint: Checkpoint, _: Asked, base: Base) -> Imported:
    """AdaMoLE, whose threshold may be at most 1 / E; and MoLE by top-k."""
    experts, rank = checkpoint.setting("num_experts", int), checkpoint.setting("lora_rank", int)
    alpha = checkpoint.setting("lora_alpha", (int, float))
    adaptive = checkpoint.settings.get("peft_type") != "MOLE"
    if adaptive:
        _check_threshold(checkpoint, experts)
    elif checkpoint.settings.get("threshold") is not None:
        raise TopicLoraError(
            f"{checkpoint.file} is a MoLE with a fixed threshold, for which there is no router here.",
            "MoLE by top_k and AdaMoLE can be imported.",
        )
    table = _THRESHOLD if adaptive else _TOP_K
    found = Sorted(checkpoint, table, [_TWICE], of="AdaMoLE" if adaptive else "MoLE")
    router = [part for part in table if part not in ("a", "b")]
    for module in found.modules:
        found.require(module, {"a": experts, "b": experts, **dict.fromkeys(router)})
    found.complete()
    linears = {
        module: Linear.scaled(
            found.each(module, "a"),
            found.each(module, "b"),
            alpha,
            rank,
            **{part: found.one(module, part) for part in router},
        )
        for module in found.modules
    }
    settings = {
        "lora_alpha": float(alpha),
        "lora_dropout": checkpoint.settings.get("lora_dropout") or 0.0,
        "expert_dropout": "own",
        "router": "threshold" if adaptive else "linear",
        **({} if adaptive else top_k_settings(checkpoint.setting("top_k", int))),
    }
    return build("adamole" if adaptive else "molora", linears, base, found.whole, **settings)


def _check_threshold(checkpoint: Checkpoint, experts: int) -> None:
    highest = checkpoint.settings.get("max_threshold")
    if highest is not None and abs(highest * experts - 1) > 1e-6:
        raise TopicLoraError(
            f"{checkpoint.file} has max_threshold {highest}; the threshold router here goes up to 1 / {experts}.",
            "Only checkpoints with the default, or exactly that, can be imported.",
        )
