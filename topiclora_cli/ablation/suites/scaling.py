"""How the result grows with the training data: shares of it that lie one within the other."""

from typing import Any

from topiclora_cli.ablation.suites.sizes import Sizes
from topiclora_cli.ablation.suites.suite import Made, SuiteCell
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe

PARTS = (16, 8, 4, 2)
_QUICK = (4, 2)
SAME_STEPS = (16, 4)  # parts that are also trained on for as many steps as all of the data


def make(recipe: Recipe, *, quick: bool) -> Made:
    """The recipe and one LoRA of its size on parts of the data; raises TopicLoraError for a stream, which has none."""
    if recipe.data.streaming:
        raise TopicLoraError(
            "The suite scaling takes parts of the training data, and a stream has no size.", "Leave out data.streaming."
        )
    series: dict[str, dict[str, Any]] = {"full": {}}
    if recipe.adapter.method != "lora":
        sizes = Sizes(recipe)
        series["lora"] = sizes.method("lora", sizes.budget())
    cells = []
    for name, changes in series.items():
        who = "the recipe" if name == "full" else "one LoRA of as many parameters"
        if name != "full":
            cells.append(SuiteCell(f"{name}-data=1", f"What does {who} learn from all of the data?", changes))
        for part in _QUICK if quick else PARTS:
            question = f"What does {who} learn from 1/{part} of the data in as many epochs?"
            cells.append(SuiteCell(f"{name}-data=1_{part}", question, {**changes, **_as_many_epochs(recipe, part)}))
        for part in () if quick else SAME_STEPS:
            question = f"What does {who} learn from 1/{part} of the data in as many steps as of all of it?"
            cells.append(
                SuiteCell(f"{name}_same_steps-data=1_{part}", question, {**changes, **_as_many_steps(recipe, part)})
            )
    return Made(cells)


def _as_many_epochs(recipe: Recipe, part: int) -> dict[str, Any]:
    fraction: dict[str, Any] = {"data.fraction": recipe.data.fraction / part}
    steps = recipe.train.max_steps
    return fraction if steps is None else {**fraction, "train.max_steps": max(1, round(steps / part))}


def _as_many_steps(recipe: Recipe, part: int) -> dict[str, Any]:
    fraction: dict[str, Any] = {"data.fraction": recipe.data.fraction / part}
    return fraction if recipe.train.max_steps is not None else {**fraction, "train.epochs": recipe.train.epochs * part}
