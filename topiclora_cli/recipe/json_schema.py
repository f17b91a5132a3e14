"""A recipe as a JSON schema, for editors that complete keys and check values while somebody writes one."""

import inspect
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from topiclora_cli.recipe.adapter import KINDS
from topiclora_cli.recipe.methods import DEFAULT, METHODS
from topiclora_cli.recipe.schema import Recipe
from topiclora_cli.recipe.section import Section
from topiclora_cli.recipe.train import SCHEDULERS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_HEAD = re.compile(r"(?:^|(?<=[.;] ))(\w+(?:, \w+)*): ")


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe that somebody writes; a run's own lists every key there is.

    Keys are described as far as the docstrings of the sections say what they are. The adapter has the keys of the layer
    that carries its method, and no others.
    """
    schema = _standard(Recipe.model_json_schema())
    sections = {section.__name__: section for section in _sections()}
    for name, definition in schema["$defs"].items():
        texts = _texts_of(sections[name])
        for key, values in definition.get("properties", {}).items():
            values.pop("title", None)
            if key in texts:
                values["description"] = texts[key]
    for values in schema["properties"].values():
        values.pop("title", None)
        if "$ref" in values or "oneOf" in values:
            # A section's own keys have the defaults; all of them at once would be written into the file.
            values.pop("default", None)
    schema["$defs"]["TrainSection"]["properties"]["lr_scheduler"]["enum"] = list(SCHEDULERS)
    for layer, kind in KINDS.items():
        _name_methods(schema["$defs"][kind.__name__], layer)
    return {"$schema": DIALECT, **schema, "title": "Recipe of topiclora"}


def key_texts(docstring: str, keys: Iterable[str]) -> dict[str, str]:
    """What a section's docstring says of its keys: after `key: ` at the start of a sentence, or else the sentences that
    name `key` in backquotes."""
    known, headed, naming = set(keys), dict[str, str](), dict[str, list[str]]()
    for paragraph in docstring.split("\n\n"):
        text = _plain(paragraph)
        heads = [head for head in _HEAD.finditer(text) if _keys_of(head[1], known)]
        for head, following in zip_longest(heads, heads[1:]):
            said = text[head.end() : following.start() if following else None].strip()
            headed |= dict.fromkeys(_keys_of(head[1], known), said[:1].upper() + said[1:])
        for sentence in re.split(r"(?<=\.) ", text):
            for key in known.intersection(re.findall(r"`(\w+)[^`]*`", sentence)):
                naming.setdefault(key, []).append(sentence)
    return {key: " ".join(sentences) for key, sentences in naming.items()} | headed


def _name_methods(definition: dict[str, Any], layer: str) -> None:
    """Tell a kind of adapter by its methods, of which only the default goes unsaid."""
    method = definition["properties"]["method"]
    method["enum"] = [name for name, each in METHODS.items() if each.layer == layer]
    if DEFAULT not in method["enum"]:
        del method["default"]
        definition["required"] = ["method"]


def _keys_of(head: str, known: set[str]) -> list[str]:
    """The keys that a head such as `source, config` is about; a loss goes by its name, its key is its weight."""
    named = [next((key for key in (name, f"{name}_weight") if key in known), None) for name in head.split(", ")]
    return [key for key in named if key] if all(named) else []


def _standard(schema: Any) -> Any:
    """A schema without the name that pydantic leaves to the bound of a union."""
    if isinstance(schema, list):
        return [_standard(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {"exclusiveMinimum" if key == "gt" else key: _standard(value) for key, value in schema.items()}


def _plain(text: str) -> str:
    return " ".join(text.split())


def _texts_of(section: type[Section]) -> dict[str, str]:
    """What is said of a section's keys by its own docstring, or by those of the sections that it extends."""
    texts: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if issubclass(kind, Section) and kind is not Section and kind.__doc__:
            texts |= key_texts(inspect.cleandoc(kind.__doc__), kind.model_fields)
    return texts


def _sections(kind: type[Section] = Section) -> Iterator[type[Section]]:
    for section in kind.__subclasses__():
        yield section
        yield from _sections(section)
