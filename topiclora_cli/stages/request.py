"""What an outcome was asked for, by which it is found again; nothing here loads torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.evaluation import EvalSection
from topiclora_cli.runs.files import sha256_file
from topiclora_cli.runs.run import RunDir

_APART = (
    "probes",
    "probe_questions",
)  # keys of eval that say what follows an evaluation, and change none of its scores
_LATER = ("by_entropy", "backend_args")  # keys of eval that evaluations have been made without


def asked_for(recipe: Recipe, run: RunDir, *sections: str) -> dict[str, Any]:
    """What makes two outcomes of a run comparable, as plain JSON: these sections of the recipe, the model as it
    computes, and the adapter's files."""
    return {**request_of(recipe, *sections), "adapter": digests(adapter_files(run))}


def request_of(recipe: Recipe, *sections: str) -> dict[str, Any]:
    """As asked_for, without the adapter's files."""
    values = recipe.model_dump(mode="json", include={"model", "seed", *sections})
    if "eval" in values:
        # What was asked before there were these keys is what is asked where they are as they come.
        fields = EvalSection.model_fields
        later = [key for key in _LATER if getattr(recipe.eval, key) == fields[key].default]
        values["eval"] = {key: value for key, value in values["eval"].items() if key not in (*later, *_APART)}
    return {**values, "precision": recipe.train.precision}


def adapter_files(run: RunDir) -> dict[str, Path]:
    """The files of a run's adapter by name; none where it has no adapter."""
    return {file.name: file for file in sorted(run.adapter.glob("adapter_*"))}


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """The sha256 of each."""
    return {name: sha256_file(path) for name, path in files.items()}
