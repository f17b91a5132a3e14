"""What two runs were asked to do otherwise."""

from typing import Any

from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.fill import said_keys
from topiclora_cli.runs.run import RECIPE, RunDir


def run_differences(*runs: RunDir) -> dict[str, list[Any]]:
    """The keys in which the runs' recipes differ, by dotted key, with each run's value; None where it has none.

    The values are those that the runs really have, whoever said them. Raises TopicLoraError for a recipe that cannot
    be read.
    """
    values = [said_keys(load_recipe(str(run.path / RECIPE)).model_dump(mode="json")) for run in runs]
    keys = dict.fromkeys(key for each in values for key in each)
    rows = {key: [each.get(key) for each in values] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}
