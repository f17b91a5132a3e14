"""The recipe's section on the grid of altered recipes that `topiclora ablate` compares."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator

from topiclora_cli.errors import nearest
from topiclora_cli.recipe.section import Section, Seed
from topiclora_cli.recipe.space import Axis, axis, combinations, is_range

# Among an ablation's cells: the recipe itself, the model without any training, and the recipe as it is where a search
# finds other values for it.
FULL, BASE, UNTUNED = "full", "base", "untuned"
_FOLDERS = r"^[^./\\][^/\\]*$"  # names that a folder may have, which is not hidden
# A range is read as a list of one.
_VALUES = {"anyOf": [{"type": "array", "items": {}, "minItems": 1}, {"type": "string"}]}


def _as_a_folder_has_it(name: str) -> str:
    if re.fullmatch(_FOLDERS, name) is None:
        raise ValueError("a cell's name is a folder's: no slash, and no dot at its start")
    return name


CellName = Annotated[str, AfterValidator(_as_a_folder_has_it), WithJsonSchema({"type": "string", "pattern": _FOLDERS})]


class AblationSection(Section):
    """Cells of overrides (dotted recipe keys), each run for every seed in a folder of its name, beside the recipe
    itself, which is called `full`.
    """

    cells: dict[CellName, dict[str, Any]] = {}
    """Overrides of each cell by its name: dotted recipe keys and their values."""
    about: dict[str, str] = {}
    """The question that each cell answers, by its name, for the report."""
    seeds: list[Seed] = Field(default=[0], min_length=1)
    """Every cell is run with each of these seeds."""
    overrides: dict[str, Any] = {}
    """Dotted recipe keys and values that all cells have in common."""
    base: bool = False
    """Score the untrained model, too, as a cell of that name."""
    tune: dict[str, Annotated[list[Any], Field(min_length=1), WithJsonSchema(_VALUES)]] = {}
    """Dotted keys and the values to try of each, in all combinations; at the first seed every cell trains them all and
    keeps what has the lowest loss on the examples of data.validation. A key that a cell sets itself is not tried in it.
    A search takes ranges, too: 1e-4..5e-3:log, 4..64:int, 4..64:int:log.
    """
    search: Literal["grid", "optuna"] = "grid"
    """How values of ablation.tune are found: all combinations of what is listed, or trials that optuna proposes by what
    earlier ones came to, as many for each cell; then the recipe as it is stands beside them, as the cell `untuned`.
    """
    trials: int = Field(default=30, ge=2)
    """How many trials a search gives each cell."""
    reference: str = FULL
    """The cell that others are compared with."""

    @field_validator("tune", mode="before")
    @classmethod
    def _ranges_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: [values] if is_range(values) else values for key, values in value.items()}

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
        self._check_search()
        if self.reference not in self.all_cells:
            raise ValueError(f"reference {self.reference!r} is no cell. {nearest(self.reference, self.all_cells)}")
        return self

    def _check_search(self) -> None:
        """Whether there is something to search, in another way than by trying all that is listed."""
        axes = self.axes
        if self.search == "grid":
            for key, values in self.tune.items():
                if any(map(is_range, values)):
                    raise ValueError(f"tune.{key}: {values[0]} is a range; list values, or draw with search: optuna")
            return
        if UNTUNED in self.cells:
            raise ValueError(
                f"{UNTUNED} is the recipe as it is, beside what a search finds; give that cell another name"
            )
        points = combinations(axes)
        if points <= 1:
            held = "one value alone" if axes else "nothing"
            raise ValueError(f"search: optuna has nothing to choose from: tune holds {held}; give a list or a range")
        if points <= self.trials:
            raise ValueError(
                f"search: optuna would try each of the {points:g} combinations of tune, which {self.trials} trials "
                "cover; leave search out, or give a range"
            )

    @property
    def axes(self) -> dict[str, Axis]:
        """What is tuned, by dotted key; raises ValueError for a range that is none."""
        found = {}
        for key, values in self.tune.items():
            try:
                found[key] = axis(values)
            except ValueError as error:
                raise ValueError(f"tune.{key}: {error}") from None
        return found

    @property
    def all_cells(self) -> dict[str, dict[str, Any]]:
        """The overrides of every cell by its name, the base and the recipe itself first."""
        untuned: dict[str, dict[str, Any]] = {UNTUNED: {}} if self.search == "optuna" else {}
        return {**({BASE: {}} if self.base else {}), FULL: {}, **untuned, **self.cells}
