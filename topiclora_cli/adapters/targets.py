"""What a method adapts: names of linear layers, or roles that are looked up in the model."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import PreTrainedModel

from topiclora_cli.adapters.moe_blocks import base_routers, require_moe_blocks
from topiclora_cli.adapters.roles import handed_to_kernels, is_linear, language_part, never_called, part_of
from topiclora_cli.adapters.topiclora.scope import count_layers, is_output
from topiclora_cli.errors import TopicLoraError, nearest

ROLES: dict[str, Callable[[nn.Module, str], bool]] = {
    "all-linear": lambda model, name: True,
    "attention": lambda model, name: part_of(model, name) == "attention",
    "feed-forward": lambda model, name: part_of(model, name) == "feed-forward",
    "outputs": lambda model, name: is_output(name),
}
# Parts of a sparse base model, for peft's LoRA alone: in most models they are bare parameters and no linear layers.
MOE_ROLES = ("router", "experts")


def resolve_targets(model: nn.Module, wanted: str | Sequence[str], *, key: str = "target_modules") -> str | list[str]:
    """Names of layers for peft, which mean the same layers to every method.

    A role becomes the names of the layers it stands for. A name stands for all layers that end so, as far as any of
    them are in the language part of a composite model, and any are called; a regex is taken as it is. Raises
    TopicLoraError for a name or a role that matches nothing in the model, for a layer that the model never calls, and
    for the roles of a sparse base.
    """
    if is_moe_role(wanted):
        raise TopicLoraError(
            f"adapter.{key}: {wanted!r} works with peft's LoRA only; this method adapts linear layers.",
            f"Name linear layers or a role: {', '.join(ROLES)}.",
        )
    names, every = linear_layers(model), [name for name, _ in model.named_modules()]
    if is_role(wanted):
        apart = set(left_alone(model))
        stands_for = ROLES[str(wanted).lower()]
        chosen = [name for name in names if name not in apart and stands_for(model, name)]
        _require(bool(chosen), f"adapter.{key}: {wanted!r}", str(wanted), names)
        return _shortest(chosen, every)
    if isinstance(wanted, str):
        matched = {name for name in every if re.fullmatch(wanted, name)}
        _require(bool(matched), f"adapter.{key}: {wanted!r}", wanted, names)
        refuse_idle(model, matched, key=key)
        return wanted
    matched, chosen_names = set(), set[str]()
    language = language_part(model)
    for short in wanted:
        found = {name for name in every if name == short or name.endswith("." + short)}
        _require(bool(found), f"adapter.{key}: {short!r}", short, names)
        matched |= found
        found = {name for name in found if name.startswith(language)} or found
        chosen_names |= found - never_called(model) or found
    refuse_idle(model, chosen_names, key=key)
    return list(wanted) if chosen_names == matched else _shortest(sorted(chosen_names), every)


def left_alone(model: nn.Module) -> dict[str, str]:
    """Linear layers that no role stands for, each with the reason in words."""
    language, kernels, silent = language_part(model), handed_to_kernels(model), never_called(model)
    reasons = {}
    for name in linear_layers(model):
        if not name.startswith(language):
            reasons[name] = f"outside the language part ({language.rstrip('.')})"
        elif name in silent:
            reasons[name] = "never called: the model reads its weight, or does without"
        elif name in kernels:
            reasons[name] = "its weight goes to a fused kernel, past any adapter"
    return reasons


def full_names(model: nn.Module, targets: str | Sequence[str], **limits: Any) -> list[str]:
    """The modules that peft finds for `resolve_targets`, within `exclude_modules` and `layers_to_transform`."""
    config = LoraConfig(target_modules=targets, **limits)  # type: ignore[arg-type]
    found = ((name, check_target_module_exists(config, name)) for name, _ in model.named_modules() if name)
    # peft answers with an object of its own where a name is excluded.
    return [name for name, answer in found if answer is True or isinstance(answer, re.Match)]


def refuse_idle(model: nn.Module, names: Collection[str], *, key: str = "target_modules") -> None:
    """Raises TopicLoraError where some of the names are of linear layers that the model never calls."""
    if idle := sorted(never_called(model) & set(names)):
        language = language_part(model)
        way_out = f"Leave out {', '.join(sorted({name.rpartition('.')[2] for name in idle}))}, or use a role."
        raise TopicLoraError(
            f"adapter.{key}: {idle[0]}{f' and {len(idle) - 1} more' if idle[1:] else ''} would get an adapter that "
            "never runs: the model reads the weight itself, or does without the layer.",
            f"Text alone calls {language}*: name layers of that part." if language else way_out,
        )


def refuse_unknown(
    model: nn.Module,
    *,
    exclude_modules: str | Sequence[str] | None,
    modules_to_save: Sequence[str] | None,
    layers_to_transform: Sequence[int] | None,
) -> None:
    """Raises TopicLoraError for a name, expression or number that stands for nothing in the model, as peft does not."""
    names = [name for name, _ in model.named_modules() if name]
    excluded = [exclude_modules] if isinstance(exclude_modules, str) else exclude_modules or ()
    for key, wanted in (("exclude_modules", excluded), ("modules_to_save", modules_to_save or ())):
        for one in wanted:
            pattern = one if one is exclude_modules else rf"(.*\.)?{re.escape(one)}"
            if not any(re.fullmatch(pattern, name) for name in names):
                leaves = {name.rpartition(".")[2] for name in names}
                raise TopicLoraError(f"adapter.{key}: {one!r} matches nothing in the model.", nearest(one, leaves))
    layers = count_layers(model)
    if beyond := [number for number in layers_to_transform or () if number >= layers]:
        raise TopicLoraError(
            f"adapter.layers_to_transform: the model has no layer {beyond[0]}.", f"Its layers are 0 to {layers - 1}."
        )


def is_role(wanted: str | Sequence[str]) -> bool:
    """Whether targets are linear layers by role: all-linear, attention, feed-forward, outputs."""
    return isinstance(wanted, str) and wanted.lower() in ROLES


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
        if is_linear(module) and module is not head and not f".{name}".endswith(routers)
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
