"""What is asked on the command line, as the values of the recipe's section `ablation`.

Of a new run it takes the place of the grid that the recipe describes. To a run that is there it adds: what its cells
have in common stays as it is, so that none that is finished becomes another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topiclora_cli.ablation.axes import Axis, as_text, cells_of, overlap
from topiclora_cli.ablation.called import as_in_grid, settings_of, shared_by_all
from topiclora_cli.ablation.grid import refuse_one_name, try_ends
from topiclora_cli.ablation.held_out import enough_held_out
from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe import BASE, FULL, Recipe, altered
from topiclora_cli.recipe.paths import anchored_overrides
from topiclora_cli.runs.run import RECIPE

_ELSEWHERE = "Start a new run for them, with --recipe and --out."
SEARCHES = ("grid", "optuna")
Changes = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A grid as it is asked for; what is empty or None is left to the recipe.

    tune: axes of one key each. search: how the best of their values is found, by so many trials where it draws them.
    """

    suites: tuple[str, ...] = ()
    quick: bool = False
    axes: tuple[Axis, ...] = ()
    one_factor: bool = False
    tune: tuple[Axis, ...] = ()
    search: str | None = None
    trials: int | None = None
    seeds: tuple[int, ...] = ()
    reference: str | None = None

    def __post_init__(self) -> None:
        """Raises TopicLoraError for what contradicts itself, whatever the recipe."""
        if self.one_factor and not self.axes:
            raise TopicLoraError("--one-factor has no --grid to take apart.", "Example: --grid adapter.r=4,16")
        if linked := [axis.label for axis in self.tune if len(axis.keys) > 1]:
            raise TopicLoraError(f"--tune {linked[0]} names several keys.", "Give each its own --tune.")
        if self.search not in (None, *SEARCHES):
            raise TopicLoraError(f"There is no search {self.search!r}.", nearest(self.search, SEARCHES))
        axes = [key for axis in self.axes for key in axis.keys]
        for axis in (*self.axes, *self.tune):
            for key in axis.keys:
                if key == "seed":
                    raise TopicLoraError("seed is no axis of its own: all cells have the same.", "Use --seeds 0,1,2.")
                if key.partition(".")[0] in ("ablation", "name"):
                    raise TopicLoraError(f"{key} is no axis: it changes nothing in a cell.", "Leave it out.")
        tuned = [axis.label for axis in self.tune]
        if both := next((key for key in axes for other in tuned if overlap(key, other)), None):
            raise TopicLoraError(
                f"{both} is an axis of --grid and a key to --tune.",
                "Compare its values, or have the best one chosen; leave out one of the two.",
            )


@dataclass
class _Asking:
    """A recipe on its way to what is asked of it; notes: what a reader would not expect."""

    recipe: Recipe
    asked: Asked
    folder: Path | None
    notes: list[str] = field(default_factory=list)

    @property
    def begun(self) -> bool:
        """Whether cells are there, whose settings are not to change."""
        return self.folder is not None and has_cells(self.folder)

    def change(self, changes: Changes, *, where: str) -> None:
        """Take these values into the recipe."""
        if changes:
            self.recipe = altered(self.recipe, changes.items(), where=where)


def has_cells(folder: Path) -> bool:
    """Whether cells of a grid are in its folder."""
    return any(folder.glob(f"*/{RECIPE}"))


def ask(recipe: Recipe, asked: Asked, *, folder: Path | None = None) -> tuple[Recipe, list[str]]:
    """The recipe with what is asked in its section `ablation`, and lines that say what a reader would not expect.

    folder: the cells of a run that is there, to which is added. Raises TopicLoraError for a key or a value that the
    recipe cannot have, a cell that is there under the same name with other settings, two values to tune that one folder
    would hold, a reference that is no cell, and what would change cells that are there.
    """
    asking = _Asking(recipe, asked, folder)
    own = recipe.ablation.cells if folder is None else {}
    cells = _of_suites(asking) if asked.suites or asked.quick else {}
    if asked.axes:
        cells |= _of_axes(asking, cells)
    if asked.suites or asked.axes:
        asking.change(_with_cells(asking, cells), where="ablation")
        if gone := [name for name in own if name not in cells]:
            asking.notes.append(f"The recipe's own cells make room: {', '.join(gone)}.")
    if asked.tune or asked.search or asked.trials is not None:
        asking.change(_with_tune(asking), where="--tune")
        shared, axes = shared_by_all(asking.recipe), asking.recipe.ablation.axes
        try_ends(shared, {axis.label: axes[axis.label] for axis in asked.tune}, where="--tune")
    section = asking.recipe.ablation
    refuse_one_name(section.axes, where="--tune" if asked.tune else "ablation.tune")
    if asked.seeds:
        seeds = list(dict.fromkeys([*(section.seeds if folder is not None else ()), *asked.seeds]))
        asking.change({"ablation.seeds": seeds} if seeds != section.seeds else {}, where="--seeds")
    if asked.reference is not None:
        reference = as_in_grid(asking.recipe, asked.reference, asked.axes)
        if reference not in section.all_cells:
            hint = nearest(reference, section.all_cells)
            raise TopicLoraError(f"--reference {reference}: there is no such cell.", hint)
        asking.change({"ablation.reference": reference}, where="--reference")
    return asking.recipe, asking.notes


def _of_suites(asking: _Asking) -> Changes:
    """The cells of the suites, whose other keys are taken into the recipe; into a run only where it has them so."""
    from topiclora_cli.ablation.suites import suite_changes

    asked, recipe, section = asking.asked, asking.recipe, asking.recipe.ablation
    found = suite_changes(recipe, asked.suites, quick=asked.quick)
    asking.notes += found.notes
    changes = dict(found.values)
    cells: Changes = changes.pop("ablation.cells", {})
    where = f"--suite {','.join(asked.suites)}" if asked.suites else "--quick"
    if asked.suites:
        there, about = (section.cells, section.about) if asking.folder is not None else ({}, {})
        changes["ablation.cells"] = {**there, **cells}
        changes["ablation.about"] = {**about, **changes.get("ablation.about", {})}
    if asking.folder is not None:
        changes = _for_a_run(asking, changes, where=where)
    asking.change(changes, where=where)
    return cells


def _for_a_run(asking: _Asking, changes: Changes, *, where: str) -> Changes:
    """The changes as a run takes them: its own training stays as it was, and so does what finished cells have in
    common, with which cell they are compared, their seeds, and what is tuned.
    """
    section = asking.recipe.ablation
    common = {key: value for key, value in changes.items() if not key.startswith("ablation.")}
    grid = {key: value for key, value in changes.items() if key not in common}
    if not asking.begun:
        return {**grid, "ablation.overrides": {**section.overrides, **common}}
    now = shared_by_all(asking.recipe)
    wanted = altered(now, common.items(), where=where)
    for key in common:
        if (new := _value(wanted, key)) != (old := _value(now, key)):
            raise TopicLoraError(f"{where} wants {key}: {new!r}, and the run's cells have {old!r}.", _ELSEWHERE)
    return {key: value for key, value in grid.items() if key in ("ablation.cells", "ablation.about")}


def _of_axes(asking: _Asking, suites: Mapping[str, Any]) -> Changes:
    """The cells that the axes span, without those that are other cells by another name."""
    recipe, shared = asking.recipe, shared_by_all(asking.recipe)
    there = {**(recipe.ablation.cells if asking.folder is not None else {}), **suites}
    known = {settings_of(shared): FULL}
    for name, overrides in there.items():
        known.setdefault(settings_of(altered(shared, overrides.items(), where=f"ablation.cells.{name}")), name)
    cells: Changes = {}
    for name, overrides in cells_of(asking.asked.axes, one_factor=asking.asked.one_factor).items():
        found = known.setdefault(settings_of(altered(shared, overrides.items(), where="--grid")), name)
        if found in cells:
            raise TopicLoraError(f"--grid: {name} and {found} are the same cell.", "Leave out one of the values.")
        if found == name:
            cells[name] = anchored_overrides(shared, overrides)
        else:
            said = ", ".join(f"{key}={as_text(value)}" for key, value in overrides.items())
            what = "the recipe itself" if found == FULL else "a cell that is there"
            asking.notes.append(f"{said} is {what}, which is called {found}.")
    return cells


def _with_cells(asking: _Asking, cells: Mapping[str, Any]) -> Changes:
    """The section's cells: these, beside those of a run that is there."""
    section = asking.recipe.ablation
    there = section.cells if asking.folder is not None else {}
    for name, overrides in cells.items():
        if there.get(name, overrides) != overrides:
            raise TopicLoraError(f"The run has a cell {name!r} with other settings.", _ELSEWHERE)
    names = {FULL, *({BASE} if section.base else ()), *there, *cells}
    changes: Changes = {"ablation.cells": {**there, **cells}}
    changes["ablation.reference"] = section.reference if section.reference in names else FULL
    return {key: value for key, value in changes.items() if getattr(section, key.rpartition(".")[2]) != value}


def _with_tune(asking: _Asking) -> Changes:
    section, folder = asking.recipe.ablation, asking.folder
    tune: Changes = {}
    for axis in asking.asked.tune:
        key, values = axis.label, [value for (value,) in axis.points]
        there = section.tune.get(key, []) if folder is not None else []
        if asking.begun and not there:
            raise TopicLoraError(f"--tune {key}: the run's cells were trained without a choice of it.", _ELSEWHERE)
        tune[key] = [*there, *(value for value in values if value not in there)]
    changes: Changes = {"ablation.search": asking.asked.search, "ablation.trials": asking.asked.trials}
    changes = {key: value for key, value in changes.items() if value is not None}
    if asking.asked.trials is not None and changes.get("ablation.search", section.search) != "optuna":
        raise TopicLoraError("--trials are those of a search.", "Add --search optuna.")
    if not tune:
        return changes
    changes["ablation.tune"] = {**(section.tune if folder is not None else {}), **tune}
    shared = shared_by_all(asking.recipe)
    if shared.data.validation is None:
        number = enough_held_out(shared)
        asking.notes.append(f"data.validation={number}: the best values are chosen by the loss on so many examples.")
        changes["ablation.overrides"] = {**section.overrides, "data.validation": number}
    return changes


def _value(recipe: Recipe, key: str) -> Any:
    found: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
