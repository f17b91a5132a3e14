"""The whole grid of a run, as its recipe asks for it, whichever part of it a call works on."""

from collections.abc import Sequence

from topiclora_cli.ablation.grid import Cell, make_grid
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import BASE, Recipe, load_recipe, with_experts
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.naming import REPORT
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.graph import GraphReport
from topiclora_cli.runs.run import RECIPE, RunDir


def as_made(recipe: Recipe, run: RunDir) -> Recipe:
    """The recipe with the number of experts that the run's graph has, where that is what it wants.

    Raises TopicLoraError where there is no graph yet.
    """
    if recipe.adapter.graph_experts != "auto":
        return recipe
    path = run.path / "graph" / REPORT
    if not path.is_file():
        raise TopicLoraError(
            f"{run.path} has no cells yet: its number of experts is still to be chosen.",
            f"Look again in a while, or begin with: {command_line('ablate', '--run', run.path)}",
        )
    return with_experts(recipe, read_result(path, GraphReport).experts)


def whole_grid(mine: Sequence[Cell], run: RunDir) -> list[Cell]:
    """The cells of a call, with those and at those seeds that the run's recipe has beside them.

    A cell of the call is as the call has it, which may have been told otherwise. What the recipe cannot have is no part
    of the grid.
    """
    try:
        recipe = as_made(load_recipe(str(run.path / RECIPE)), run)
    except TopicLoraError:
        return list(mine)
    section = recipe.ablation
    first = section.seeds[0]
    found: dict[tuple[int, str], list[Cell]] = {}
    for cell in mine:
        # The base has one run, at whichever seed a call begins.
        found.setdefault((cell.seed if cell.trained else first, cell.name), []).append(cell)
    asked = set(found)
    for name in section.all_cells:
        seeds = section.seeds[:1] if section.base and name == BASE else section.seeds
        if not all((seed, name) in asked for seed in seeds):
            for cell in _cells(recipe, name):
                if (cell.seed, name) not in asked:
                    found.setdefault((cell.seed, name), []).append(cell)
    order = dict.fromkeys([*section.seeds, *(seed for seed, _ in found)])
    names = dict.fromkeys([*section.all_cells, *(name for _, name in found)])
    return [cell for seed in order for name in names for cell in found.get((seed, name), ())]


def _cells(recipe: Recipe, name: str) -> list[Cell]:
    try:
        return make_grid(recipe, only=[name])
    except TopicLoraError:
        return []
