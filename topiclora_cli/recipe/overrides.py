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


def with_overrides(
    values: Mapping[str, Any], overrides: Iterable[tuple[str, Any]], *, where: str = "--set"
) -> dict[str, Any]:
    """A copy of nested `values` with each dotted key set.

    Raises TopicLoraError, naming `where` they were said, for a key that runs through a value.
    """
    result = deepcopy(dict(values))
    for key, value in overrides:
        *parents, last = key.split(".")
        node = result
        for depth, parent in enumerate(parents):
            if isinstance(node, dict) and node.get(parent) is None:
                node[parent] = {}
            node = node[_place(key, parent, node, where)]
            if not isinstance(node, dict | list):
                raise no_section(".".join(parents[: depth + 1]), f"{where} {key}")
        node[_place(key, last, node, where)] = deepcopy(value)
    return result


def no_section(key: str, where: str) -> TopicLoraError:
    """The error for a dotted key that has others below it, and takes a value."""
    return TopicLoraError(f"{where}: {key!r} is a value, not a section.", f"Did you mean {key!r}?")


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())


def _place(key: str, part: str, node: dict[str, Any] | list[Any], where: str) -> Any:
    """What a part of a dotted key stands for: a name, or the number of an item in a list, the first being 0."""
    if isinstance(node, dict):
        return part
    if part.isdigit() and int(part) < len(node):
        return int(part)
    raise TopicLoraError(f"{where} {key}: no item {part!r} in a list of {len(node)}.", "Count from 0.")
