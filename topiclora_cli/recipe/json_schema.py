"""A recipe as a JSON schema, for editors that complete keys and check values while somebody writes one."""

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from topiclora_cli.recipe.adapter import FIELDS, KINDS
from topiclora_cli.recipe.load import SAID
from topiclora_cli.recipe.methods import DEFAULT, METHODS
from topiclora_cli.recipe.schema import Recipe
from topiclora_cli.recipe.spelling import old_loss_keys
from topiclora_cli.recipe.train import SCHEDULERS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe, one that somebody writes or one that a run keeps.

    Every key is described. The adapter has the keys of the layer that carries its method, and no others. What is read
    for the sake of earlier versions is a pattern, from which no editor completes.
    """
    schema = _standard(Recipe.model_json_schema())
    for definition in schema["$defs"].values():
        for values in definition.get("properties", {}).values():
            values.pop("title", None)
            # pydantic leaves out what a section says of itself, too.
            said = values.get("description") or schema["$defs"][target(values)]["description"]
            # Line breaks are those of the source.
            values["description"] = " ".join(said.split())
    for values in schema["properties"].values():
        values.pop("title", None)
        if "$ref" in values or "oneOf" in values:
            # A section's own keys have the defaults; all of them at once would be written into the file.
            values.pop("default", None)
    schema["$defs"]["TrainSection"]["properties"]["lr_scheduler"]["enum"] = list(SCHEDULERS)
    for layer, kind in KINDS.items():
        _name_methods(schema["$defs"][kind.__name__], layer)
        _take_others_defaults(schema["$defs"][kind.__name__])
    _take_old_losses(schema["$defs"])
    kept = "What somebody said, where topiclora has written the rest: in the recipe that a run keeps."
    schema["patternProperties"] = _patterns({SAID: {"type": "object", "description": kept}})
    return {"$schema": DIALECT, **schema, "title": "Recipe of topiclora"}


def target(values: dict[str, Any]) -> str:
    """The name of the definition that a schema refers to."""
    return str(values["$ref"]).rpartition("/")[2]


def _name_methods(definition: dict[str, Any], layer: str) -> None:
    """Tell a kind of adapter by its methods, of which only the default goes unsaid."""
    method = definition["properties"]["method"]
    method["enum"] = [name for name, each in METHODS.items() if each.layer == layer]
    if DEFAULT not in method["enum"]:
        del method["default"]
        definition["required"] = ["method"]


def _take_others_defaults(definition: dict[str, Any]) -> None:
    """Let a kind of adapter have the keys of the others, as an earlier version wrote them out: asking for nothing."""
    idle = "Means nothing to this method."
    others = {
        key: {"enum": [None, *_plain_default(field)], "deprecated": True, "description": idle}
        for key, field in FIELDS.items()
        if key not in definition["properties"]
    }
    definition["patternProperties"] = _patterns(others)


def _plain_default(field: FieldInfo) -> list[Any]:
    return [] if field.default is None else [to_jsonable_python(field.default)]


def _take_old_losses(definitions: dict[str, Any]) -> None:
    """Let the section of losses have the flat keys that earlier versions had."""
    losses, old = definitions["LossSection"], {}
    for name, key in old_loss_keys().items():
        term, _, setting = key.partition(".")
        part = definitions[target(losses["properties"][term])]
        values = {each: value for each, value in part["properties"][setting].items() if each != "default"}
        note = {"deprecated": True, "description": f"Called loss.{key} now. {values['description']}"}
        if name == term:
            # A number in the place of a mapping; bounds say nothing of the latter.
            part |= {**values, "type": [part["type"], values["type"]], "description": part["description"]}
        else:
            old[name] = {**values, **note}
    losses["patternProperties"] = _patterns(old)


def _patterns(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {f"^{key}$": values for key, values in keys.items()}


def _standard(schema: Any) -> Any:
    """A schema without the name that pydantic leaves to the bound of a union."""
    if isinstance(schema, list):
        return [_standard(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {"exclusiveMinimum" if key == "gt" else key: _standard(value) for key, value in schema.items()}
