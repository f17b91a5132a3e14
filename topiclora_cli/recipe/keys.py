"""Every key of a recipe with its values, its default and its meaning: what there is to set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.adapter import KINDS
from topiclora_cli.recipe.fill import said_keys
from topiclora_cli.recipe.json_schema import recipe_schema, target
from topiclora_cli.recipe.methods import DEFAULT, METHODS, SECTIONS
from topiclora_cli.recipe.synonyms import our_name
from topiclora_cli.recipe.yaml_text import write_yaml

# Whose methods have a key of the adapter, by the layer that carries them.
LAYERS: Mapping[str, str] = {
    "mixture": "mixtures",
    "perft": "PERFT",
    "lora": "plain LoRA",
    "adalora": "AdaLoRA",
    "xlora": "X-LoRA",
}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
_NAMES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true | false",
    "object": "mapping",
}


@dataclass(frozen=True)
class Key:
    """A key by its dotted name.

    values: what it takes, in words. default: as YAML; empty for a section, and where the key must be given. preset: as
    YAML, what the default method brings in its place, else empty. methods: whose key it is; empty, of all.
    """

    name: str
    meaning: str
    values: str
    default: str = ""
    preset: str = ""
    methods: tuple[str, ...] = ()
    is_section: bool = False
    required: bool = False


def recipe_keys(prefix: str = "") -> list[Key]:
    """All keys in the order of the schema; or those whose dotted names start with `prefix`, else those that have it in
    their names.

    A section, or a term of the losses, comes before the keys within it. Those of data.sources are those of data. The
    key that other tools call `prefix` comes before all. Raises TopicLoraError where no key is called like that.
    """
    schema = recipe_schema()
    method = METHODS[DEFAULT]
    presets = said_keys({section: method.values(section) for section in SECTIONS})
    keys = list(_Walk(schema["$defs"], presets).keys_of(schema, ""))
    found = [key for key in keys if key.name.startswith(prefix)] or [key for key in keys if prefix in key.name]
    if not found:
        names = [name for key in keys for name in (key.name, key.name.rpartition(".")[2])]
        hint = nearest(prefix, names, meant=our_name(prefix))
        raise TopicLoraError(f"No key of a recipe is called {prefix!r}.", hint)
    section = prefix.rpartition(".")[0]
    meant = f"{section}.{ours}" if (ours := our_name(prefix)) and section and "." not in ours else ours
    exact = any(prefix in (key.name, key.name.rpartition(".")[2]) for key in keys)
    theirs = [key for key in keys if key.name == meant and key not in found and not exact]
    return [*theirs, *found]


@dataclass(frozen=True)
class _Walk:
    definitions: Mapping[str, Any]
    presets: Mapping[str, Any]

    def keys_of(self, definition: Mapping[str, Any], within: str) -> Iterator[Key]:
        for name, values in definition["properties"].items():
            key = f"{within}{name}"
            if "oneOf" in values:
                yield Key(key, values["description"], "mapping", is_section=True)
                yield from self._adapter(f"{key}.")
                continue
            inner = self._inner(values)
            default = values.get("default")
            section = inner is not None and isinstance(values.get("default", {}), dict)
            yield Key(
                key,
                values["description"],
                _words(values),
                default=_yaml(default) if "default" in values and not section else "",
                preset=_yaml(self.presets[key]) if self.presets.get(key, default) != default else "",
                is_section=section,
                required=name in definition.get("required", ()),
            )
            if inner is not None:
                yield from self.keys_of(inner, f"{key}.")

    def _adapter(self, within: str) -> Iterator[Key]:
        """The keys of all kinds of adapter, each once, with the methods that have it."""
        found: dict[str, Key] = {}
        owners: dict[str, list[str]] = {}
        for layer, kind in KINDS.items():
            for key in self.keys_of(self.definitions[kind.__name__], within):
                found.setdefault(key.name, key)
                owners.setdefault(key.name, []).append(LAYERS[layer])
        for name, key in found.items():
            if name == f"{within}method":
                yield Key(name, key.meaning, "text", default=DEFAULT)
                continue
            methods = () if len(owners[name]) == len(KINDS) else tuple(owners[name])
            yield Key(name, key.meaning, key.values, default=key.default, preset=key.preset, methods=methods)

    def _inner(self, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The section that a key holds, if it is one."""
        for each in (values, *values.get("anyOf", ())):
            if "$ref" in each:
                found: Mapping[str, Any] = self.definitions[target(each)]
                return found
        return None


def _words(values: Mapping[str, Any]) -> str:
    """What a key takes."""
    if "anyOf" in values:
        # null is what a default of null says.
        kinds = [_words(each) for each in values["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in values or "const" in values:
        return " | ".join(map(str, values.get("enum", [values.get("const")])))
    if "$ref" in values:
        return "mapping"
    if values["type"] == "array":
        return f"list of {_words(values['items'])}"
    bounds = [f"{word} {values[key]:g}" for key, word in _BOUNDS.items() if key in values]
    return " ".join([_NAMES[values["type"]], *bounds])


def _yaml(value: Any) -> str:
    """A value as one writes it in a recipe, in one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return write_yaml(value).removesuffix("...\n").strip()
