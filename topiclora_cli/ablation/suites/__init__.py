"""Ready grids: each suite makes the cells that answer one question about the user's own recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

from topiclora_cli.ablation.suites import baselines, budget, components, hyper, scaling, sequence, topics
from topiclora_cli.ablation.suites.quick import quick_values
from topiclora_cli.ablation.suites.sizes import Sizes
from topiclora_cli.ablation.suites.suite import Made, Suite, SuiteCell, SuiteChanges
from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe import FULL, Recipe, altered
from topiclora_cli.recipe.adapter import AdapterSection, SizedSection
from topiclora_cli.training.attach import refuse_contradictions, solve

__all__ = ["SUITES", "Made", "Suite", "SuiteCell", "SuiteChanges", "suite_changes"]

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("components", "Which part of the method earns its place?", components.make),
        Suite("hyper", "How much hangs on each setting?", hyper.make),
        Suite("baselines", "Is it better than the field's methods of the same size?", baselines.make),
        Suite("budget", "How does it grow with the size of the adapter?", budget.make),
        Suite("scaling", "How does it grow with the training data?", scaling.make),
        Suite("sequence", "What do changed prompts do to answers and to routing?", sequence.make),
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
        values |= {key: _with(values.get(key), value) for key, value in made.changes.items()}
        chosen.notes += [f"{name}: {note}" for note in made.notes]
        for cell in made.cells:
            chosen.add(name, cell)
    values["ablation.cells"] = {name: dict(cell.changes) for name, cell in chosen.cells.items()}
    values["ablation.about"] = {name: cell.question for name, cell in chosen.cells.items()}
    values["ablation.reference"] = FULL
    return SuiteChanges(values, chosen.notes)


def _with(before: Any, value: Any) -> Any:
    """What two suites ask of one key: the items of both where they are lists, as of probes, else the later."""
    return [*dict.fromkeys([*before, *value])] if isinstance(before, list) and isinstance(value, list) else value


class _Chosen:
    """The cells that suit a recipe, each once, by their names."""

    def __init__(self, recipe: Recipe) -> None:
        self.cells: dict[str, SuiteCell] = {}
        self.notes: list[str] = []
        self._recipe = recipe
        self._sizes = Sizes(recipe)
        self._solved = {repr(recipe.adapter)}
        self._settings = {FULL: _settings(recipe)}

    def add(self, suite: str, cell: SuiteCell) -> None:
        """Take a cell; one that does not suit, or is there already under whatever name, is left out with a note."""
        try:
            changed = altered(self._recipe, cell.changes.items(), where=f"suite {suite}: {cell.name}")
            refuse_contradictions(changed.adapter)
            self._try_budget(changed.adapter)
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

    def _try_budget(self, section: AdapterSection) -> None:
        """Raise TopicLoraError where a section's budget is out of reach."""
        if isinstance(section, SizedSection) and section.budget is not None and repr(section) not in self._solved:
            skeleton = self._sizes.skeleton
            solve(section, skeleton.model, sizes=skeleton.sizes)
            self._solved.add(repr(section))


def _settings(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(exclude={"ablation"})
