"""The cells of an ablation: each is the run's recipe with a few keys changed, once per seed and way to tune it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import product
from typing import Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe import BASE, Recipe, altered
from topiclora_cli.recipe.ablation import UNTUNED
from topiclora_cli.recipe.space import Axis, Range, combinations
from topiclora_cli.recipe.spelling import short_name

# What compares cells is the grid itself.
UNNEEDED = {"eval.base": False, "graph.compare_seeds": 0}


@dataclass(frozen=True)
class Cell:
    """One run of the grid; tuned: the values of `ablation.tune` that it has, by dotted key.

    trained: whether it is trained before it is scored; the base is not. axes: what is still searched for its name, by
    `trials` runs at the first seed; it is no run itself then, but stands for those to come. search: of such a run, the
    search that it is of.
    """

    name: str
    seed: int
    recipe: Recipe
    tuned: tuple[tuple[str, Any], ...] = ()
    trained: bool = True
    axes: tuple[tuple[str, Axis], ...] = ()
    trials: int = 0
    search: str = ""

    @property
    def folder(self) -> str:
        if not self.trained:
            return self.name
        values = [f"{short_name(key)}={shown(value)}" for key, value in self.tuned]
        return "-".join([f"{self.name}-s{self.seed}", *values])

    @property
    def search_name(self) -> str:
        """Of a searched cell, by its name, its space and the seed of its trials: another space is another search."""
        space = [(key, asdict(axis) if isinstance(axis, Range) else list(axis)) for key, axis in self.axes]
        return f"{self.name}-{sha256(json.dumps([self.recipe.ablation.seeds[0], space]).encode()).hexdigest()[:8]}"


def make_grid(recipe: Recipe, *, only: Sequence[str] | None = None) -> list[Cell]:
    """All cells by seeds and ways to tune them, the base and the unchanged recipe (`full`) first.

    Raises TopicLoraError for an unknown cell, an override or a key to tune that the recipe schema refuses, two values
    to tune that one folder would hold, and for nothing to choose the best by.
    """
    section = recipe.ablation
    refuse_one_name(section.axes, where="ablation.tune")
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
                    untrained = altered(shared, {"seed": seed, **UNNEEDED}.items(), where=name)
                    grid.append(Cell(BASE, seed, untrained, trained=False))
                continue
            changes = {**overrides, "seed": seed, **UNNEEDED}
            changed = altered(shared, changes.items(), where=f"ablation.cells.{name}")
            if changed.adapter.graph_experts == "auto":
                raise TopicLoraError(
                    f"ablation.cells.{name}: adapter.num_experts is auto, but all cells share the recipe's number.",
                    "Leave it out here, and set auto in the recipe itself.",
                )
            axes = {key: values for key, values in section.axes.items() if key not in overrides and name != UNTUNED}
            if section.search == "grid" or combinations(axes) <= section.trials:
                grid += _tuned(name, seed, changed, _listed(axes))
            else:
                try_ends(changed, axes, where=f"ablation.tune of {name}")
                grid.append(Cell(name, seed, changed, axes=tuple(axes.items()), trials=section.trials))
    return grid


def with_values(cell: Cell, values: Sequence[tuple[str, Any]]) -> Cell:
    """The run of a searched cell with these values of what is searched."""
    changed = altered(cell.recipe, values, where="ablation.tune")
    return Cell(cell.name, cell.seed, changed, tuple(values), search=cell.search_name)


def count_runs(grid: Sequence[Cell]) -> int:
    """How many runs a grid comes to: of what is tuned, all values at the first seed, and those chosen at the others."""
    first = grid[0].seed
    trials = sum(cell.trials or 1 for cell in grid if cell.seed == first)
    return trials + len({(cell.name, cell.seed) for cell in grid if cell.seed != first})


def _listed(axes: Mapping[str, Axis]) -> dict[str, Sequence[Any]]:
    """All values of a space that has no more of them than are tried."""
    return {
        key: range(int(values.low), int(values.high) + 1) if isinstance(values, Range) else values
        for key, values in axes.items()
    }


def try_ends(recipe: Recipe, axes: Mapping[str, Axis], *, where: str) -> None:
    """Raises TopicLoraError, naming `where`, for a value of the axes that the recipe's schema refuses."""
    for key, values in axes.items():
        ends = values.examples() if isinstance(values, Range) else values
        for value in ends:
            altered(recipe, [(key, value)], where=where)


def refuse_one_name(axes: Mapping[str, Axis], *, where: str) -> None:
    """Raises TopicLoraError, naming `where`, for two values of an axis that would have one folder's name."""
    for key, values in axes.items():
        # What a search draws has fewer digits than a name, unless it is an end of its range.
        ends = values.examples()[:: len(values.examples()) - 1] if isinstance(values, Range) else values
        names = [shown(value) for value in ends]
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            raise TopicLoraError(
                f"{where}: two values of {key} would be called {f'{short_name(key)}={twice}'!r}.",
                "Leave one of them out, or have them differ in six digits.",
            )


def _tuned(name: str, seed: int, recipe: Recipe, tune: Mapping[str, Sequence[Any]]) -> Iterator[Cell]:
    for values in product(*tune.values()):
        chosen = tuple(zip(tune, values, strict=True))
        changed = altered(recipe, chosen, where=f"ablation.tune of {name}") if chosen else recipe
        yield Cell(name, seed, changed, chosen)


def shown(value: Any) -> str:
    """A value as a part of a folder's name."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+-]+", "_", text)
