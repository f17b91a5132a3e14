"""YAML as a recipe has it, and what is refused in any YAML that somebody else wrote."""

import math
import re
from collections.abc import Iterable
from copy import deepcopy
from functools import lru_cache
from typing import Any

import yaml


class UniqueLoader(yaml.SafeLoader):
    """YAML, in which no mapping has a key twice, of which the first would be lost without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(
                        problem=f"the key {key.value!r} stands there twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


class Loader(UniqueLoader):
    """YAML, with numbers such as 1e-4, which YAML 1.1 takes for text; what is quoted stays text."""


class Dumper(yaml.SafeDumper):
    """YAML for that Loader: text that it would take for a number is quoted."""


def read_yaml(text: str, loader: Any = Loader) -> Any:
    """Parse YAML; raises yaml.YAMLError, also for an alias within what it names, and for what is nested too deep."""
    return deepcopy(_parsed(text, loader))


@lru_cache(maxsize=16)  # every stage of a run reads the run's recipe again
def _parsed(text: str, loader: Any) -> Any:
    try:
        value = yaml.load(text, loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    _refuse_recursion(value)
    return value


def write_yaml(value: Any) -> str:
    """YAML that read_yaml reads back as it was."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True)  # type: ignore[no-any-return]


def _refuse_recursion(value: Any) -> None:
    """Raise yaml.YAMLError where a value holds itself, which nothing that reads it would survive."""
    above: set[int] = set()  # what the part looked at stands in
    known: set[int] = set()  # what was looked at with all that it holds
    waiting = [(value, False)]
    while waiting:
        part, left = waiting.pop()
        if left:
            above.discard(id(part))
            known.add(id(part))
        elif id(part) in above:
            raise yaml.YAMLError("an alias (*name) stands within what it names (&name), without an end")
        elif isinstance(part, dict | list) and id(part) not in known:
            above.add(id(part))
            held: Iterable[Any] = part.values() if isinstance(part, dict) else part
            waiting += [(part, True), *((each, False) for each in held)]


def _number(loader: Loader, node: yaml.ScalarNode) -> float | str:
    text = loader.construct_scalar(node)
    # The hash of a commit can look like a number that no float holds.
    return float(text) if math.isfinite(float(text)) else str(text)


_SCIENTIFIC = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver("!scientific", _SCIENTIFIC, list("-+.0123456789"))
Loader.add_constructor("!scientific", _number)
