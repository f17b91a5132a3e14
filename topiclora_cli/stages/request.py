"""What an outcome was asked for, by which it is found again; nothing here loads torch."""

from typing import Any

from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.evaluation import EvalSection
from topiclora_cli.runs.files import sha256_file
from topiclora_cli.runs.run import RunDir

_APART = (
    "probes",
    "probe_questions",
)  # keys of eval that say what follows an evaluation, and change none of its scores
_LATER = ("by_entropy",)  # keys of eval that evaluations have been made without


def asked_for(recipe: Recipe, run: RunDir, *sections: str) -> dict[str, Any]:
    """What makes two outcomes of a run comparable, as plain JSON: these sections of the recipe, the model as it
    computes, and the adapter's files."""
    values = recipe.model_dump(mode="json", include={"model", "seed", *sections})
    if "eval" in values:
        # What was asked before there were these keys is what is asked where they are as they come.
        fields = EvalSection.model_fields
        later = [key for key in _LATER if getattr(recipe.eval, key) == fields[key].default]
        values["eval"] = {key: value for key, value in values["eval"].items() if key not in (*later, *_APART)}
    adapter = {file.name: sha256_file(file) for file in sorted(run.adapter.glob("adapter_*"))}
    return {**values, "precision": recipe.train.precision, "adapter": adapter}
