"""What callers give, read: recipes with their overrides, runs and folders, and where the stages' lines go."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, altered
from topiclora_cli.recipe import load_recipe as read_recipe
from topiclora_cli.runs.progress import LoggedProgress, Progress
from topiclora_cli.runs.run import MANIFEST, RECIPE, RunDir
from topiclora_cli.stages.whole import start_run as start

Folder = str | os.PathLike[str]
Overrides = Mapping[str, Any]  # dotted key -> value, as {"train.max_steps": 50}


def load_recipe(name: Folder, overrides: Overrides | None = None) -> Recipe:
    """Read and check a recipe: a file, or a bundled one by name. Raises TopicLoraError naming file, key and fix."""
    return read_recipe(path_of(name, "recipe"), pairs_of(overrides))


def pairs_of(overrides: Overrides | None) -> list[tuple[str, Any]]:
    """Dotted keys with their values; raises TopicLoraError for what is no mapping of them."""
    changes = {} if overrides is None else overrides
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise TopicLoraError(
            f"overrides is no mapping of dotted keys to values: {str(changes)[:60]!r}.",
            'Example: {"train.max_steps": 50}',
        )
    return list(changes.items())


def start_new(recipe: Recipe | Folder, out: Folder | None, overrides: Overrides | None) -> tuple[Recipe, RunDir]:
    """A recipe, with overrides, and the folder of a new run of it."""
    if isinstance(recipe, Recipe):
        wanted = altered(recipe, pairs_of(overrides), where="overrides") if overrides else recipe
    else:
        wanted = load_recipe(recipe, overrides)
    return start(wanted, out)


def start_or_open(
    recipe: Recipe | RunDir | Folder, out: Folder | None, overrides: Overrides | None
) -> tuple[Recipe, RunDir]:
    """A recipe with a new run of it, or those of a run that there is, where no folder is asked for."""
    if not isinstance(recipe, Recipe) and (
        isinstance(recipe, RunDir) or (Path(path_of(recipe, "recipe")) / MANIFEST).is_file()
    ):
        opened = open_run(recipe)
        if out is not None:
            raise TopicLoraError(f"{opened.path} is a run, and out={str(out)!r} asks for a new one.", "Leave out one.")
        return recipe_of(opened, overrides), opened
    return start_new(recipe, out, overrides)


def open_trained(run: RunDir | Folder, section: str, settings: Mapping[str, Any]) -> tuple[Recipe, RunDir]:
    """A run with an adapter, and its recipe with these settings of a section; raises TopicLoraError without one."""
    opened = open_run(run)
    opened.require("adapter", made_by="train")
    return recipe_of(opened, {f"{section}.{key}": value for key, value in settings.items()}), opened


def open_run(run: RunDir | Folder) -> RunDir:
    """The run itself, or that of a folder."""
    return run if isinstance(run, RunDir) else RunDir(path_of(run, "run"))


def name_of_topic(topic: str) -> str:
    """A topic's name without spaces around it; raises TopicLoraError for what is no text."""
    if not isinstance(topic, str):
        raise TopicLoraError(f"A topic is named by its text, not by {type(topic).__name__}.", "Example: 'geography'")
    return topic.strip()


def name_of(run: RunDir | Folder) -> str:
    """A run as it is named on the command line."""
    return str(run.path) if isinstance(run, RunDir) else path_of(run, "run")


def path_of(given: Folder, what: str) -> str:
    """A path as text; raises TopicLoraError for anything else, which is no `what`."""
    try:
        return os.fspath(given)
    except TypeError:
        hint = "Its .run is one." if isinstance(getattr(given, "run", None), RunDir) else "Give its path."
        raise TopicLoraError(f"What was given is no {what}, but of type {type(given).__name__}.", hint) from None


def recipe_of(run: RunDir, overrides: Overrides | None = None) -> Recipe:
    """The recipe of a run, with overrides."""
    return load_recipe(run.path / RECIPE, overrides)


def shown(progress: Progress | None) -> Progress:
    """Where a stage's lines go: to the logger, unless the caller has a place for them."""
    return progress if progress is not None else LoggedProgress()
