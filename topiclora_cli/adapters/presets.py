"""From a method's name and settings to the peft configuration that trains it on a given model."""

import copy
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from peft import AdaLoraConfig, EvaConfig, LoraConfig, PeftConfig, XLoraConfig
from torch import nn

from topiclora_cli.adapters.perft import PerftConfig
from topiclora_cli.adapters.stock import lora_targets
from topiclora_cli.adapters.targets import ROLES, full_names, is_moe_role, resolve_moe_role, resolve_targets
from topiclora_cli.adapters.topiclora import TopicLoraConfig
from topiclora_cli.adapters.topiclora.scope import count_layers
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.scaling import LAWS

# Rank of AdaLoRA before pruning, over the rank that it keeps: the ratio of peft's defaults, 12 to 8.
ADALORA_SPARE = 1.5
# What peft's LoRA on a bare parameter refuses in words that name no key, or passes over without a word.
_NOT_ON_PARAMETERS = ("lora_dropout", "use_dora", "layers_to_transform", "exclude_modules")


def make_config(
    layer: str, settings: Mapping[str, Any], model: nn.Module, *, total_steps: int = 1, **extra: Any
) -> PeftConfig:
    """The configuration for `model` from a recipe's adapter settings.

    layer: our `mixture` or `perft`, or one of peft's own (lora, adalora, xlora). Raises TopicLoraError where a
    target matches nothing or sizes do not fit.
    """
    if layer == "xlora":
        return _xlora(settings, model)
    if layer == "perft":
        return _perft(settings, **extra)
    common = {
        "task_type": "CAUSAL_LM",
        **_targets(layer, settings, model),
        # peft's AdaLoRA has no use for rsLoRA's scale.
        **_pick(settings, "lora_alpha", "lora_dropout", *({"use_rslora"} & set(settings))),
        **_pick(settings, "exclude_modules", "layers_to_transform", "modules_to_save"),
    }
    if layer == "lora":
        # Every layer keeps its rank, so that methods compare at one size; answers alone may be shorter than the rank.
        eva = EvaConfig(rho=1.0, use_label_mask=False) if settings["init_lora_weights"] == "eva" else None
        return LoraConfig(**_pick(settings, "r", "use_dora", "init_lora_weights"), **common, eva_config=eva)
    if layer == "adalora":
        start = max(settings["r"] + 1, round(ADALORA_SPARE * settings["r"]))
        return AdaLoraConfig(init_r=start, target_r=settings["r"], total_step=total_steps, **common)
    mixture = _mixture(settings, count_layers(model))
    if settings["plain_modules"] is not None:
        mixture["plain_modules"] = _plain_modules(settings["plain_modules"], model)
    return TopicLoraConfig(**{**mixture, **common, **extra})


def sizes_config(layer: str, settings: Mapping[str, Any]) -> TopicLoraConfig | PerftConfig:
    """The sizes, gates and scale of a `mixture` or `perft` on no model in particular.

    What goes by depth is spread over the fewest layers that show every number. Raises TopicLoraError for settings that
    fit one another on no model.
    """
    if layer == "perft":
        return _perft(settings)
    lists = (settings["experts_by_depth"] or [0], settings["ranks_by_depth"] or [0])
    of_a_model = dict.fromkeys(("plain_modules", "target_modules", "layers_to_transform"))
    return TopicLoraConfig(**{**_mixture(settings, math.lcm(*map(len, lists))), **of_a_model})


def _mixture(settings: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """What a mixture's settings say by themselves, on so many layers."""
    mixture = _pick(settings, *(_fields(TopicLoraConfig) & set(settings)))
    mixture["experts_per_layer"] = by_depth(settings["experts_by_depth"], layers)
    mixture["ranks_per_layer"] = ranks = by_depth(settings["ranks_by_depth"], layers)
    if ranks is not None and settings["scaling"] != "total":  # under which one alpha starts all ranks alike
        alpha, of, law = settings["lora_alpha"], settings["r"], LAWS[settings["scaling"]]
        mixture["alphas_per_layer"] = [law.alpha_at(rank, alpha=alpha, of=of) for rank in ranks]
    return mixture


def _targets(layer: str, settings: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    wanted = settings["target_modules"]
    if layer != "lora":
        return {"target_modules": resolve_targets(model, wanted)}
    if not is_moe_role(wanted):
        return _stock_targets(resolve_targets(model, wanted), settings, model)
    modules, parameters = resolve_moe_role(model, wanted)
    if parameters:
        _refuse_on_parameters(settings, f"target_modules: {wanted}, which are bare parameters in this model")
    return {"target_modules": modules, "target_parameters": parameters or None}


def _stock_targets(targets: str | list[str], settings: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """As resolved, unless peft would take some of the names for fused experts: then every layer in full."""
    limits = _pick(settings, "exclude_modules", "layers_to_transform")
    exact = lora_targets(model, full_names(model, targets, **limits))
    if not exact.target_parameters:
        return {"target_modules": targets}
    first = exact.target_parameters[0]
    _refuse_on_parameters(settings, f"{first}, which peft can adapt in this model as a bare parameter alone", limits)
    return vars(exact)


def _refuse_on_parameters(settings: Mapping[str, Any], what: str, heeded: Collection[str] = ()) -> None:
    if settings["init_lora_weights"] is not True:
        raise TopicLoraError(f"adapter.init_lora_weights does not work on {what}.", "Leave it out.")
    for key in _NOT_ON_PARAMETERS:
        if settings[key] and key not in heeded:
            raise TopicLoraError(f"adapter.{key} does not work on {what}.", f"Leave adapter.{key} out.")


def _plain_modules(wanted: str | Sequence[str], model: nn.Module) -> list[str]:
    found = resolve_targets(model, wanted, key="plain_modules")
    if isinstance(found, str):
        raise TopicLoraError(
            f"adapter.plain_modules takes names or a role, not the regular expression {found!r}.",
            f"Name linear layers in a list, or a role: {', '.join(ROLES)}.",
        )
    return found


def _perft(settings: Mapping[str, Any], **extra: Any) -> PerftConfig:
    apart = {"top_k"} if settings["variant"] == "routed" else {"top_k", "router"}  # who routes nothing has no router
    shared = _pick(settings, *(_fields(PerftConfig) & set(settings) - apart))
    return PerftConfig(
        task_type="CAUSAL_LM",
        num_adapters=settings["num_experts"],
        shared_adapters=settings["shared_experts"],
        top_k=settings["top_k"] or settings["num_experts"],
        **shared,
        **extra,
    )


def by_depth(numbers: Sequence[int] | None, layers: int) -> list[int] | None:
    """Spread numbers evenly over layers, lowest first: [2, 4, 6, 8] gives each quarter of the layers its number."""
    if numbers is None:
        return None
    return [numbers[layer * len(numbers) // layers] for layer in range(layers)]


def _xlora(settings: Mapping[str, Any], model: Any) -> PeftConfig:
    # X-LoRA runs the model twice per step and cannot use a cache in between.
    model.config.use_cache = False
    adapters = {str(number): folder for number, folder in enumerate(settings["init_from"])}
    return XLoraConfig(
        task_type="CAUSAL_LM",
        hidden_size=model.config.hidden_size,
        adapters=adapters,
        top_k_lora=settings["top_k"],
        use_trainable_adapters=settings["train_experts"],
    )


def _fields(config: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


def _pick(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: copy.deepcopy(settings[name]) for name in names}
