"""What an outcome was asked for, by which it is found again; nothing here loads torch."""

from typing import Any

from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.files import sha256_file
from topiclora_cli.runs.run import RunDir


def asked_for(recipe: Recipe, run: RunDir, *sections: str) -> dict[str, Any]:
    """What makes two outcomes of a run comparable, as plain JSON: these sections of the recipe, the model as it
    computes, and the adapter's files."""
    values = recipe.model_dump(mode="json", include={"model", "seed", *sections})
    adapter = {file.name: sha256_file(file) for file in sorted(run.adapter.glob("adapter_*"))}
    return {**values, "precision": recipe.train.precision, "adapter": adapter}
