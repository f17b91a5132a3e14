"""What a recipe says, and what its method fills in around that.

The two are kept apart: a method fills in only what nobody said, whatever the order in which the recipe, the command
line and a cell of an ablation say it, and another method later starts from what was said.
"""

from collections.abc import Collection, Mapping
from typing import Any

from topiclora_cli.recipe.loss import LOSS_KEYS
from topiclora_cli.recipe.meaning import idle_settings
from topiclora_cli.recipe.methods import DEFAULT, METHODS, PLAIN, SECTIONS, Method
from topiclora_cli.scaling import LAWS, plain_rank

_OF_TERMS = "loss"  # the section whose values are mappings themselves
_RIVALS = {"top_k": "top_p"}  # a method's choice that gives way to another that was said


def fill_in(said: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe values: what was said, and where that leaves a key open, the method's; an unknown method adds nothing.

    A size said without an alpha has the alpha that belongs to it under the law of scaling. What was said and means
    nothing to the method, such as the top_k of the method before, is left out here and stays said.
    """
    values = dict(said)
    sections = {name: said.get(name) or {} for name in SECTIONS}
    method = _method(sections["adapter"])
    if method is None or not all(isinstance(section, Mapping) for section in sections.values()):
        return values
    idle = idle_keys(said)
    # What a method itself sets is dropped where something said has made it idle.
    dropped = idle.keys() - idle_keys({"adapter": {"method": sections["adapter"].get("method", DEFAULT)}})
    for name, own in sections.items():
        preset = {key: value for key, value in method.values(name).items() if not own.get(_RIVALS.get(key, ""))}
        values[name] = _merged(_without(dropped, name, preset), _without(idle, name, own))
    _fill_in_scaling(values["adapter"], sections["adapter"], method)
    return values


def said_keys(said: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, by dotted key of a section or of a loss: {"adapter": {"r": 8}} as {"adapter.r": 8}."""
    flat: dict[str, Any] = {}
    for section, values in said.items():
        keys: dict[str, Any] = {}
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if section == _OF_TERMS and isinstance(value, Mapping):
                keys |= {f"{section}.{key}.{name}": within for name, within in value.items()}
            else:
                keys[f"{section}.{key}"] = value
        flat |= keys or {section: values}
    return flat


def idle_keys(said: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys that nothing reads under what was said, each with the reason; none of an unknown method."""
    adapter = said.get("adapter") or {}
    method = _method(adapter)
    if method is None:
        return {}
    loss = said.get("loss")
    losses = _merged(method.values("loss"), loss if isinstance(loss, Mapping) else {})
    return idle_settings({**method.adapter, **adapter}, losses, LOSS_KEYS)


def _without(idle: Collection[str], section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values but for idle ones."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if section == _OF_TERMS and isinstance(value, Mapping):
            value = {name: within for name, within in value.items() if f"{section}.{key}.{name}" not in idle}
        if f"{section}.{key}" not in idle:
            kept[key] = value
    return kept


def _merged(preset: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values over those of a method, within a term's mapping, too."""
    both = {key: {**preset[key], **own[key]} for key in preset.keys() & own.keys() if _are_mappings(preset, own, key)}
    return {**preset, **own, **both}


def _are_mappings(preset: Mapping[str, Any], own: Mapping[str, Any], key: str) -> bool:
    return isinstance(preset[key], Mapping) and isinstance(own[key], Mapping)


def _fill_in_scaling(adapter: dict[str, Any], said: Mapping[str, Any], method: Method) -> None:
    """The law of scaling by either of its two names, and the alpha that belongs to it and to the sizes."""
    if method.layer == "mixture":
        if "scaling" not in said and said.get("use_rslora") is not None:
            # The older key alone says which law, as it did.
            as_method = "expert" if adapter.get("scaling") == "sqrt" else adapter.get("scaling", "expert")
            adapter["scaling"] = "sqrt" if said["use_rslora"] else as_method
        elif "use_rslora" not in said and adapter.get("scaling") == "sqrt":
            adapter["use_rslora"] = True
    if "lora_alpha" not in said and "r" in method.adapter and (alpha := _alpha_of_sizes(adapter, method)):
        adapter["lora_alpha"] = alpha


def _alpha_of_sizes(adapter: Mapping[str, Any], method: Method) -> float | None:
    """The alpha that is to these sizes what the method's own is to its own sizes.

    Under a law that is not the method's it is the plain LoRA's, which `total` compares every method with, or what the
    method without `total` would have. None where something is no number, which is refused by its key.
    """
    own, name = method.adapter, "sqrt" if adapter.get("use_rslora") else adapter.get("scaling", "expert")
    if name not in LAWS:
        return None
    of = PLAIN if (name == "total") != (own.get("scaling") == "total") else own
    if name != "total":
        rank, of_rank = adapter.get("r"), of["r"]
    else:
        number = own.get("num_experts", 1) if adapter.get("num_experts") == "auto" else adapter.get("num_experts")
        try:
            rank, of_rank = plain_rank({**adapter, "num_experts": number}), plain_rank(of)
        except (TypeError, KeyError):
            return None
    if not isinstance(rank, int | float):
        return None
    return LAWS[name].alpha_at(rank, alpha=of["lora_alpha"], of=of_rank)


def _method(adapter: Any) -> Method | None:
    name = adapter.get("method", DEFAULT) if isinstance(adapter, Mapping) else None
    return METHODS.get(name) if isinstance(name, str) else None
