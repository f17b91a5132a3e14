"""What a recipe says, and what its method fills in around that.

The two are kept apart: a method fills in only what nobody said, whatever the order in which the recipe, the command
line and a cell of an ablation say it, and another method later starts from what was said.
"""

from collections.abc import Mapping
from typing import Any

from topiclora_cli.recipe.meaning import idle_settings
from topiclora_cli.recipe.methods import DEFAULT, METHODS, SECTIONS, Method
from topiclora_cli.recipe.schema import LossSection
from topiclora_cli.scaling import scaling_law

_RIVALS = {"top_k": "top_p"}  # a method's choice that gives way to another that was said


def fill_in(said: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe values: what was said, and where that leaves a key open, the method's; an unknown method adds nothing.

    A rank said without an alpha keeps the method's scale. What was said and means nothing to the method, such as the
    top_k of the method before, is left out here and stays said.
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
        kept = {key: value for key, value in preset.items() if f"{name}.{key}" not in dropped}
        values[name] = kept | {key: value for key, value in own.items() if f"{name}.{key}" not in idle}
    adapter = values["adapter"]
    if "lora_alpha" not in sections["adapter"] and isinstance(adapter.get("r"), int) and "r" in method.adapter:
        alpha, rank = method.adapter["lora_alpha"], method.adapter["r"]
        adapter["lora_alpha"] = scaling_law(adapter).alpha_at(adapter["r"], alpha=alpha, of=rank)
    return values


def said_keys(said: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, by dotted key of a section: {"adapter": {"r": 8}} as {"adapter.r": 8}."""
    flat: dict[str, Any] = {}
    for section, values in said.items():
        keys = {f"{section}.{key}": value for key, value in values.items()} if isinstance(values, Mapping) else {}
        flat |= keys or {section: values}
    return flat


def idle_keys(said: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys that nothing reads under what was said, each with the reason; none of an unknown method."""
    adapter = said.get("adapter") or {}
    method = _method(adapter)
    if method is None:
        return {}
    loss = said.get("loss")
    losses = method.values("loss") | (dict(loss) if isinstance(loss, Mapping) else {})
    return idle_settings({**method.adapter, **adapter}, losses, LossSection.model_fields)


def _method(adapter: Any) -> Method | None:
    name = adapter.get("method", DEFAULT) if isinstance(adapter, Mapping) else None
    return METHODS.get(name) if isinstance(name, str) else None
