"""What a method adapts: names of linear layers, or roles that are looked up in the model."""

import re
from collections.abc import Callable, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from topiclora_cli.adapters.moe_blocks import base_routers, require_moe_blocks
from topiclora_cli.adapters.topiclora.scope import in_feed_forward, is_output, layer_index
from topiclora_cli.errors import TopicLoraError, nearest

ROLES: dict[str, Callable[[str], bool]] = {
    "all-linear": lambda name: True,
    "attention": lambda name: layer_index(name) is not None and not in_feed_forward(name),
    "feed-forward": in_feed_forward,
    "outputs": is_output,
}
# Parts of a sparse base model, for peft's LoRA alone: in most models they are bare parameters and no linear layers.
MOE_ROLES = ("router", "experts")


def resolve_targets(model: nn.Module, wanted: str | Sequence[str], *, key: str = "target_modules") -> str | list[str]:
    """Names of layers for peft: a role becomes the names it stands for; names are checked; a regex stays as it is.

    Raises TopicLoraError for a name or a role that matches nothing in the model, and for the roles of a sparse base.
    """
    names = linear_layers(model)
    if is_moe_role(wanted):
        raise TopicLoraError(
            f"adapter.{key}: {wanted!r} works with peft's LoRA only; this method adapts linear layers.",
            f"Name linear layers or a role: {', '.join(ROLES)}.",
        )
    if isinstance(wanted, str):
        if wanted.lower() in ROLES:
            chosen = [name for name in names if ROLES[wanted.lower()](name)]
            _require(bool(chosen), f"adapter.{key}: {wanted!r}", wanted, names)
            return _shortest(chosen, names)
        known = any(re.fullmatch(wanted, name) for name, _ in model.named_modules())
        _require(known, f"adapter.{key}: {wanted!r}", wanted, names)
        return wanted
    for short in wanted:
        found = any(name == short or name.endswith("." + short) for name, _ in model.named_modules())
        _require(found, f"adapter.{key}: {short!r}", short, names)
    return list(wanted)


def is_moe_role(wanted: str | Sequence[str]) -> bool:
    """Whether targets are a part of the sparse-MoE blocks by role: router, experts."""
    return isinstance(wanted, str) and wanted.lower() in MOE_ROLES


def resolve_moe_role(model: nn.Module, role: str) -> tuple[list[str], list[str]]:
    """Names for peft's `target_modules` and `target_parameters` that make up the base's routers or experts.

    Linear layers are modules; bare weights, of two dimensions in routers and three in fused experts, are parameters.
    Raises TopicLoraError where the model has no mixture-of-experts block, or none whose weights have that form.
    """
    routers = role.lower() == "router"
    modules, parameters = [], []
    for block in require_moe_blocks(model):
        part, child = (block.router, block.router_name) if routers else (block.experts, "experts")
        for name, module in part.named_modules(prefix=f"{block.name}.{child}"):
            if _is_plain_linear(module):
                modules.append(name)
                continue
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == (2 if routers else 3) and not key.endswith("bias"):
                    parameters.append(f"{name}.{key}")
    if not modules and not parameters:
        raise TopicLoraError(
            f"adapter.target_modules: the base model's {role} have no weights that LoRA can adapt.",
            "Is the model quantised? Load it in full precision.",
        )
    all_parameters = [name for name, _ in model.named_parameters()]
    return _shortest(modules, linear_layers(model)), _shortest(parameters, all_parameters)


def linear_layers(model: nn.Module) -> list[str]:
    """Every linear layer but the output head and the routers of a sparse base model."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    routers = tuple("." + name for name in base_routers(model))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and not f".{name}".endswith(routers)
    ]


def _is_plain_linear(module: nn.Module) -> bool:
    # Some routers inherit from nn.Linear and return more than a product; peft's layer in their place would break them.
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _require(found: bool, what: str, name: str, names: Sequence[str]) -> None:
    if not found:
        leaves = sorted({name.rpartition(".")[2] for name in names})
        hint = nearest(name, [*leaves, *ROLES]) if name.isidentifier() else ""
        raise TopicLoraError(
            f"{what} matches nothing in the model.", f"{hint} Its linear layers: {', '.join(leaves)}.".strip()
        )


def _shortest(chosen: Sequence[str], names: Sequence[str]) -> list[str]:
    """The shortest endings of the chosen names that fit none of the others."""
    others = [f".{name}" for name in names if name not in set(chosen)]
    endings = set()
    for name in chosen:
        parts = name.split(".")
        tails = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        endings.add(next(tail for tail in tails if not any(other.endswith("." + tail) for other in others)))
    return sorted(endings)
