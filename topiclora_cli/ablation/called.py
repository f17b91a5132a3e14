"""Cells by what the command line would call them, where they are in the grid under another name, `full` above all."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from topiclora_cli.ablation.axes import Axis, names_of
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import FULL, Recipe, altered


def as_in_grid(recipe: Recipe, name: str, axes: Sequence[Axis] = ()) -> str:
    """The name that a cell has in the recipe's grid; one that stands for no cell comes back as it is.

    axes: what is asked for beside the keys that the grid's cells change.
    """
    section = recipe.ablation
    if name in section.all_cells:
        return name
    shared = shared_by_all(recipe)
    groups = [tuple(overrides) for overrides in section.cells.values()]
    groups += [*(axis.keys for axis in axes), tuple(key for axis in axes for key in axis.keys)]
    for cell, overrides in {FULL: {}, **section.cells}.items():
        settings = altered(shared, overrides.items(), where=f"ablation.cells.{cell}")
        for keys in dict.fromkeys(filter(None, groups)):
            values = dict(_values(settings, keys))
            if len(values) < len(keys) or name not in names_of(values):
                continue
            with suppress(TopicLoraError):  # what means nothing by itself is no cell
                if settings_of(altered(shared, values.items(), where=name)) == settings_of(settings):
                    return cell
    return name


def shared_by_all(recipe: Recipe) -> Recipe:
    """The recipe as all cells of its grid have it."""
    return altered(recipe, recipe.ablation.overrides.items(), where="ablation.overrides")


def settings_of(recipe: Recipe) -> str:
    """All that makes a cell what it is, to compare by."""
    return recipe.model_dump_json(exclude={"ablation"})


def _values(recipe: Recipe, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The recipe's values of the keys that it has."""
    whole = recipe.model_dump(mode="json")
    for key in keys:
        found: Any = whole
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                break
            found = found[part]
        else:
            yield key, found
