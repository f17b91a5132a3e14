"""What two runs were asked to do otherwise."""

import warnings
from pathlib import Path
from typing import Any

from topiclora_cli.errors import OldSpelling
from topiclora_cli.recipe import Recipe, load_recipe
from topiclora_cli.recipe.fill import said_keys
from topiclora_cli.runs.run import RECIPE, RunDir


def run_differences(*runs: RunDir) -> dict[str, list[Any]]:
    """The keys in which the runs' recipes differ, by dotted key, with each run's value; None where it has none.

    The values are those that the runs really have, whoever said them; the grid that a recipe would also make is none
    of a run's own. Raises TopicLoraError for a recipe that cannot be read.
    """
    return recipe_differences(*map(recipe_of, runs))


def recipe_differences(*recipes: Recipe) -> dict[str, list[Any]]:
    """The keys in which recipes differ, but for their grids, with the value of each; None where it has none."""
    values = [said_keys(recipe.model_dump(mode="json", exclude={"ablation"})) for recipe in recipes]
    keys = dict.fromkeys(key for each in values for key in each)
    rows = {key: [each.get(key) for each in values] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def recipe_of(run: RunDir) -> Recipe:
    """The recipe that a run keeps."""
    return recipe_in(run.path)


def recipe_in(folder: Path) -> Recipe:
    """The recipe kept in a run or an outcome, read without a note on old names, which nobody can change any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldSpelling)
        return load_recipe(str(folder / RECIPE))
