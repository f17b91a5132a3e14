"""The cells of an ablation: each is the run's recipe with a few keys changed, once per seed and way to tune it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe import BASE, Recipe, altered
from topiclora_cli.recipe.spelling import short_name

# What compares cells is the grid itself.
_UNNEEDED = {"eval.base": False, "graph.compare_seeds": 0}


@dataclass(frozen=True)
class Cell:
    """One run of the grid; tuned: the values of `ablation.tune` that it has, by dotted key.

    trained: whether it is trained before it is scored; the base is not.
    """

    name: str
    seed: int
    recipe: Recipe
    tuned: tuple[tuple[str, Any], ...] = ()
    trained: bool = True

    @property
    def folder(self) -> str:
        if not self.trained:
            return self.name
        values = [f"{short_name(key)}={shown(value)}" for key, value in self.tuned]
        return "-".join([f"{self.name}-s{self.seed}", *values])


def make_grid(recipe: Recipe, *, only: Sequence[str] | None = None) -> list[Cell]:
    """All cells by seeds and ways to tune them, the base and the unchanged recipe (`full`) first.

    Raises TopicLoraError for an unknown cell, an override or a key to tune that the recipe schema refuses, and for
    nothing to choose the best by.
    """
    section = recipe.ablation
    cells = section.all_cells
    if only is not None:
        for name in only:
            if name not in cells:
                raise TopicLoraError(f"The recipe has no ablation cell {name!r}.", nearest(name, cells))
        cells = {name: cells[name] for name in only}
    for name, overrides in cells.items():
        if "seed" in overrides:
            raise TopicLoraError(
                f"ablation.cells.{name}: seed is ablation.seeds' to say, the same for all cells.", "Leave it out."
            )
    shared = altered(recipe, section.overrides.items(), where="ablation.overrides")
    if section.tune and shared.data.validation is None:
        raise TopicLoraError(
            "ablation.tune chooses by the loss on held-out examples, and the recipe holds none out.",
            "Set data.validation, to 200 for example.",
        )
    grid: list[Cell] = []
    for seed in section.seeds:
        for name, overrides in cells.items():
            if section.base and name == BASE:
                if seed == section.seeds[0]:
                    untrained = altered(shared, {"seed": seed, **_UNNEEDED}.items(), where=name)
                    grid.append(Cell(BASE, seed, untrained, trained=False))
                continue
            changes = {**overrides, "seed": seed, **_UNNEEDED}
            changed = altered(shared, changes.items(), where=f"ablation.cells.{name}")
            if changed.adapter.graph_experts == "auto":
                raise TopicLoraError(
                    f"ablation.cells.{name}: adapter.num_experts is auto, but all cells share the recipe's number.",
                    "Leave it out here, and set auto in the recipe itself.",
                )
            grid += _tuned(name, seed, changed, {k: v for k, v in section.tune.items() if k not in overrides})
    return grid


def _tuned(name: str, seed: int, recipe: Recipe, tune: Mapping[str, Sequence[Any]]) -> Iterator[Cell]:
    for values in product(*tune.values()):
        chosen = tuple(zip(tune, values, strict=True))
        yield Cell(name, seed, altered(recipe, chosen, where="ablation.tune") if chosen else recipe, chosen)


def shown(value: Any) -> str:
    """A value as a part of a folder's name."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+-]+", "_", text)
