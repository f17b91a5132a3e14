"""The cells of an ablation: each is the run's recipe with a few keys changed, once per seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe import FULL, Recipe, altered


@dataclass(frozen=True)
class Cell:
    """One training run of the grid."""

    name: str
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> str:
        return f"{self.name}-s{self.seed}"


def make_grid(recipe: Recipe, *, only: Sequence[str] | None = None) -> list[Cell]:
    """All cells by seeds, the unchanged recipe (`full`) first.

    Raises TopicLoraError for an unknown cell or an override that the recipe schema refuses.
    """
    section = recipe.ablation
    cells = {FULL: {}, **section.cells}
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
    grid = []
    for seed in section.seeds:
        for name, overrides in cells.items():
            # What compares cells is the grid itself.
            unneeded = {"eval.base": False, "graph.compare_seeds": 0}
            changes = {**overrides, "seed": seed, **unneeded}
            changed = altered(shared, changes.items(), where=f"ablation.cells.{name}")
            if changed.adapter.num_experts == "auto":
                raise TopicLoraError(
                    f"ablation.cells.{name}: adapter.num_experts is auto, but all cells share the recipe's number.",
                    "Leave it out here, and set auto in the recipe itself.",
                )
            grid.append(Cell(name, seed, changed))
    return grid
