"""Axes of a grid as the command line has them, `key=a,b,c`, and the cells that they span."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Any

import yaml

from topiclora_cli.ablation.grid import shown
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.overrides import one_line
from topiclora_cli.recipe.spelling import respelt_changes, short_name
from topiclora_cli.recipe.yaml_text import read_yaml

LINK, WITHIN = "+", ":"  # between keys that move together, and between their values
LONGEST = 100  # characters of a cell's name, which is a folder's
_BRACKETS = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}
_EXAMPLE = "Example: --grid adapter.r=4,8,16"


@dataclass(frozen=True)
class Axis:
    """Dotted keys that are changed together, most often one, and the points they take: a value for each key."""

    keys: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]

    @property
    def label(self) -> str:
        """The keys as they were typed."""
        return LINK.join(self.keys)


def parse_axis(text: str, *, option: str = "--grid") -> Axis:
    """`key=a,b,c`, whose values are YAML, or `one+two=a:b,c:d` for two keys that are changed together.

    What stands in brackets or quotes stays together. Raises TopicLoraError for another form, a value that is no YAML,
    and a point that is there twice.
    """
    name, equals, values = text.partition("=")
    keys = [key.strip() for key in name.split(LINK)]
    if not equals or not all(keys):
        raise TopicLoraError(f"{option} {text!r} is not of the form key=value,value.", _EXAMPLE)
    points = [_point(piece, keys, f"{option} {name}") for piece in _split(values, ",")]
    twice = next((point for place, point in enumerate(points) if point in points[:place]), None)
    if twice is not None:
        shown_twice = WITHIN.join(map(as_text, twice))
        raise TopicLoraError(f"{option} {name} has the value {shown_twice} twice.", "Leave one of them out.")
    changes = respelt_changes(zip(keys, points[0], strict=True), where=option)
    return Axis(tuple(key for key, _ in changes), tuple(points))


def parse_axes(texts: Sequence[str], *, option: str = "--grid") -> tuple[Axis, ...]:
    """The axes of an option that is given once for each; raises TopicLoraError where two set one key."""
    axes = tuple(parse_axis(text, option=option) for text in texts)
    keys = [key for axis in axes for key in axis.keys]
    twice = next((key for place, key in enumerate(keys) if any(overlap(key, other) for other in keys[:place])), None)
    if twice is not None:
        raise TopicLoraError(f"{option}: {twice} has two axes.", f"Give all its values in one: {option} {twice}=a,b,c")
    return axes


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys set the same, as loss.kl and loss.kl.weight do."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def cells_of(axes: Sequence[Axis], *, one_factor: bool) -> dict[str, dict[str, Any]]:
    """The overrides of every cell by its name: the product of all axes or, with one_factor, each axis alone.

    A name has the short keys and the values. Raises TopicLoraError for two cells of one name.
    """
    short = _short_keys([key for axis in axes for key in axis.keys])
    groups = [[axis] for axis in axes] if one_factor else [axes]
    cells: dict[str, dict[str, Any]] = {}
    for group in groups:
        for points in product(*(axis.points for axis in group)):
            overrides = {
                key: value
                for axis, point in zip(group, points, strict=True)
                for key, value in zip(axis.keys, point, strict=True)
            }
            name = _name(overrides, short)
            if name in cells:
                raise TopicLoraError(
                    f"--grid: two cells would be called {name!r}.", "Name such cells yourself, in ablation.cells."
                )
            cells[name] = overrides
    return cells


def names_of(overrides: Mapping[str, Any]) -> set[str]:
    """What a cell of these overrides may be called, by whatever axes there are beside its own."""
    return {_name(overrides, _short_keys(list(overrides))), _name(overrides, {key: key for key in overrides})}


def as_text(value: Any) -> str:
    """A value as one writes it in a grid, a list by its items."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, list):
        return "+".join(map(as_text, value)) or "[]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _point(piece: str, keys: Sequence[str], where: str) -> tuple[Any, ...]:
    parts = list(_split(piece, WITHIN)) if len(keys) > 1 else [piece]
    if len(parts) != len(keys):
        raise TopicLoraError(
            f"{where}: {piece.strip()!r} has {len(parts)} of {len(keys)} values, one for each key.",
            "Example: --grid adapter.num_experts+adapter.r=2:32,4:16,8:8",
        )
    if any(not part.strip() for part in parts):
        raise TopicLoraError(f"{where}: a value is missing.", f"{_EXAMPLE}; null stands for no value.")
    try:
        return tuple(read_yaml(part.strip()) for part in parts)
    except yaml.YAMLError as error:
        raise TopicLoraError(f"{where}: {piece!r} is not a YAML value ({one_line(error)}).", "Quote text.") from None


def _split(text: str, mark: str) -> Iterator[str]:
    """The pieces between marks that stand neither in brackets nor in quotes."""
    depth, quote, start, begins = 0, "", 0, True
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"" and begins:
            quote = sign
        elif sign == mark and not depth:
            yield text[start:place]
            start = place + 1
        else:
            depth = max(0, depth + _BRACKETS.get(sign, 0))
        # An apostrophe within a word opens nothing.
        begins = sign in ",:[{( " or (begins and sign.isspace())
    yield text[start:]


def _short_keys(keys: Sequence[str]) -> Mapping[str, str]:
    """What a cell's name calls each key: its short name, or all of it where two would be called the same."""
    short = {key: short_name(key) for key in keys}
    names = list(short.values())
    return {key: name if names.count(name) == 1 else key for key, name in short.items()}


def _name(overrides: Mapping[str, Any], short: Mapping[str, str]) -> str:
    name = "-".join(f"{short[key]}={shown(as_text(value))}" for key, value in overrides.items())
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}-{sha256(name.encode()).hexdigest()[:6]}"
    return name
