"""The recipe's section on the grid of altered recipes that `topiclora ablate` compares."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from topiclora_cli.errors import nearest
from topiclora_cli.recipe.section import Section

FULL, BASE = "full", "base"  # among an ablation's cells: the recipe itself, and the model without any training


class AblationSection(Section):
    """Cells of overrides (dotted recipe keys), each run for every seed in a folder of its name, beside the recipe
    itself, which is called `full`.
    """

    cells: dict[Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")], dict[str, Any]] = {}
    """Overrides of each cell by its name: dotted recipe keys and their values."""
    about: dict[str, str] = {}
    """The question that each cell answers, by its name, for the report."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    """Every cell is run with each of these seeds."""
    overrides: dict[str, Any] = {}
    """Dotted recipe keys and values that all cells have in common."""
    base: bool = False
    """Score the untrained model, too, as a cell of that name."""
    tune: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Dotted keys and the values to try of each, in all combinations; at the first seed every cell trains them all and
    keeps what has the lowest loss on the examples of data.validation. A key that a cell sets itself is not tried in it.
    """
    reference: str = FULL
    """The cell that others are compared with."""

    @model_validator(mode="after")
    def _apart(self) -> "AblationSection":
        if FULL in self.cells:
            raise ValueError(f"{FULL} is the recipe itself; give that cell another name")
        if self.base and BASE in self.cells:
            raise ValueError(f"{BASE} is the untrained model; give that cell another name")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds has one twice: {self.seeds}")
        for key, values in self.tune.items():
            if key == "seed" or key.startswith(("ablation.", "data.", "eval.")):
                raise ValueError(f"tune: {key} is the same for all, or they could not be compared")
            if any(values.count(value) > 1 for value in values):
                raise ValueError(f"tune.{key} has a value twice: {values}")
        if self.reference not in self.all_cells:
            raise ValueError(f"reference {self.reference!r} is no cell. {nearest(self.reference, self.all_cells)}")
        return self

    @property
    def all_cells(self) -> dict[str, dict[str, Any]]:
        """The overrides of every cell by its name, the base and the recipe itself first."""
        return {**({BASE: {}} if self.base else {}), FULL: {}, **self.cells}
