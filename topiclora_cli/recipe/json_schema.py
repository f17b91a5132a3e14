"""A recipe as a JSON schema, for editors that complete keys and check values while somebody writes one."""

from typing import Any

from topiclora_cli.recipe.adapter import KINDS
from topiclora_cli.recipe.methods import DEFAULT, METHODS
from topiclora_cli.recipe.schema import Recipe
from topiclora_cli.recipe.train import SCHEDULERS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe that somebody writes; a run's own lists every key there is.

    Every key is described. The adapter has the keys of the layer that carries its method, and no others.
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


def _standard(schema: Any) -> Any:
    """A schema without the name that pydantic leaves to the bound of a union."""
    if isinstance(schema, list):
        return [_standard(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {"exclusiveMinimum" if key == "gt" else key: _standard(value) for key, value in schema.items()}
