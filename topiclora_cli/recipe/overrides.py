"""Changes to a recipe, `dotted.key=value`, on the command line and in the cells of an ablation."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import yaml

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.yaml_text import read_yaml


def parse_override(text: str) -> tuple[str, Any]:
    """`dotted.key=value`, whose value is YAML, as a pair; raises TopicLoraError where the text has another form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise TopicLoraError(f"--set {text!r} is not of the form key=value.", "Example: --set train.max_steps=20")
    try:
        return key.strip(), read_yaml(value)
    except yaml.YAMLError as error:
        raise TopicLoraError(
            f"--set {key}: {value!r} is not a YAML value ({one_line(error)}).",
            f"""If it is text, quote it: --set '{key}="..."'.""",
        ) from None


def with_overrides(values: Mapping[str, Any], overrides: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of nested `values` with each dotted key set; raises TopicLoraError where a key runs through a scalar."""
    result = deepcopy(dict(values))
    for key, value in overrides:
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            if isinstance(node, dict) and node.get(parent) is None:
                node[parent] = {}
            node = node[_place(key, parent, node)]
            if not isinstance(node, dict | list):
                raise TopicLoraError(f"--set {key}: {parent!r} is a value, not a section.", "Check the dotted key.")
        node[_place(key, last, node)] = deepcopy(value)
    return result


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())


def _place(key: str, part: str, node: dict[str, Any] | list[Any]) -> Any:
    """What a part of a dotted key stands for: a name, or the number of an item in a list, the first being 0."""
    if isinstance(node, dict):
        return part
    if part.isdigit() and int(part) < len(node):
        return int(part)
    raise TopicLoraError(f"--set {key}: no item {part!r} in a list of {len(node)}.", "Count from 0.")
