"""What two runs were asked to do otherwise."""

import warnings
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
    values = [said_keys(recipe_of(run).model_dump(mode="json", exclude={"ablation"})) for run in runs]
    keys = dict.fromkeys(key for each in values for key in each)
    rows = {key: [each.get(key) for each in values] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def recipe_of(run: RunDir) -> Recipe:
    """The recipe that a run keeps, read without a note on old names, which nobody can change any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldSpelling)
        return load_recipe(str(run.path / RECIPE))
