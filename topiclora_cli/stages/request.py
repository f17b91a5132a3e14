"""What an outcome was asked for, by which it is found again; nothing here loads torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.files import sha256_file
from topiclora_cli.runs.run import RunDir


def asked_for(recipe: Recipe, run: RunDir, *sections: str) -> dict[str, Any]:
    """What makes two outcomes of a run comparable, as plain JSON: these sections of the recipe, the model as it
    computes, and the adapter's files."""
    return {**request_of(recipe, *sections), "adapter": digests(adapter_files(run))}


def request_of(recipe: Recipe, *sections: str) -> dict[str, Any]:
    """As asked_for, without the adapter's files."""
    values = recipe.model_dump(mode="json", include={"model", "seed", *sections})
    return {**values, "precision": recipe.train.precision}


def adapter_files(run: RunDir) -> dict[str, Path]:
    """The files of a run's adapter by name; none where it has no adapter."""
    return {file.name: file for file in sorted(run.adapter.glob("adapter_*"))}


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """The sha256 of each."""
    return {name: sha256_file(path) for name, path in files.items()}
