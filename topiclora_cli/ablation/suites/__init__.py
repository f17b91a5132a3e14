"""Ready grids: each suite makes the cells that answer one question about the user's own recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

from topiclora_cli.ablation.suites import components, topics
from topiclora_cli.ablation.suites.quick import quick_values
from topiclora_cli.ablation.suites.suite import Made, Suite, SuiteCell, SuiteChanges
from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe import FULL, Recipe, altered
from topiclora_cli.training.attach import refuse_contradictions

__all__ = ["SUITES", "Made", "Suite", "SuiteCell", "SuiteChanges", "suite_changes"]

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("components", "Which part of the method earns its place?", components.make),
        Suite("topics", "What do finer, more, wrong and mixed topics do?", topics.make),
    )
}


def suite_changes(recipe: Recipe, names: Sequence[str], *, quick: bool) -> SuiteChanges:
    """What suites make of a recipe, as changes to it: their cells in place of its own, compared with the recipe itself.

    quick: at sizes that a laptop has time for, also of no suite. A cell that does not suit the recipe, or is the recipe
    itself, is left out with a note. Raises TopicLoraError for an unknown suite and for one that does not suit.
    """
    for name in names:
        if name not in SUITES:
            raise TopicLoraError(f"There is no suite {name!r}.", nearest(name, SUITES))
    values: dict[str, Any] = quick_values(recipe) if quick else {}
    if not names:
        return SuiteChanges(values, [])
    small = altered(recipe, [*values.items(), ("ablation.cells", {}), ("ablation.reference", FULL)], where="suite")
    shared = altered(small, small.ablation.overrides.items(), where="ablation.overrides")
    if shared.adapter.graph_experts == "auto":
        raise TopicLoraError(
            "A suite's cells are made for one number of experts, and adapter.num_experts is auto.",
            "Set a number, 8 for example.",
        )
    chosen = _Chosen(shared)
    for name in dict.fromkeys(names):
        made = SUITES[name].make(shared, quick=quick)
        values |= made.changes
        chosen.notes += [f"{name}: {note}" for note in made.notes]
        for cell in made.cells:
            chosen.add(name, cell)
    values["ablation.cells"] = {name: dict(cell.changes) for name, cell in chosen.cells.items()}
    values["ablation.about"] = {name: cell.question for name, cell in chosen.cells.items()}
    values["ablation.reference"] = FULL
    return SuiteChanges(values, chosen.notes)


class _Chosen:
    """The cells that suit a recipe, each once, by their names."""

    def __init__(self, recipe: Recipe) -> None:
        self.cells: dict[str, SuiteCell] = {}
        self.notes: list[str] = []
        self._recipe = recipe
        self._settings = {FULL: _settings(recipe)}

    def add(self, suite: str, cell: SuiteCell) -> None:
        """Take a cell; one that does not suit, or is there already under whatever name, is left out with a note."""
        try:
            changed = altered(self._recipe, cell.changes.items(), where=f"suite {suite}: {cell.name}")
            refuse_contradictions(changed.adapter)
        except TopicLoraError as error:
            self.notes.append(f"{suite}: {cell.name} is left out: {error.message}")
            return
        settings = _settings(changed)
        for name, other in self._settings.items():
            if settings == other:
                if name != cell.name:
                    self.notes.append(f"{suite}: {cell.name} is left out: it is {name}.")
                return
        name = cell.name if cell.name not in self._settings else f"{suite}-{cell.name}"
        self.cells[name], self._settings[name] = cell, settings


def _settings(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(exclude={"ablation"})
