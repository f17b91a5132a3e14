"""The runs in a folder: all of them, what is damaged among them, and the one that a command takes unless told."""

import os
from collections.abc import Mapping
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.run import RunDir, is_run


def list_runs(root: str | os.PathLike[str]) -> list[RunDir]:
    """Runs directly under `root`, oldest first, without the damaged ones."""
    return sound_and_damaged(root)[0]


def sound_and_damaged(root: str | os.PathLike[str]) -> tuple[list[RunDir], Mapping[Path, str]]:
    """Runs directly under `root`, oldest first, and, by path, what is wrong with those that cannot be opened."""
    runs, damaged = [], {}
    for path in sorted(Path(root).iterdir()) if Path(root).is_dir() else []:
        try:
            if is_run(path):
                runs.append(RunDir(path))
        except TopicLoraError as error:
            damaged[path] = error.message
        except OSError as error:
            damaged[path] = f"{error.filename} cannot be read: {error.strerror}."
    return sorted(runs, key=lambda run: (run.manifest.created, run.path.name)), damaged


def latest_run(root: str | os.PathLike[str], *, name: str | None = None) -> RunDir:
    """The newest run under `root`, of a recipe of that name if one is given.

    One whose first command failed is passed over. Raises TopicLoraError for want of any, naming what is damaged.
    """
    runs, damaged = sound_and_damaged(root)
    for run in reversed(runs):
        manifest = run.manifest
        if name in (None, manifest.name) and not manifest.got_nowhere:
            return run
    lacking = (
        f"There is no run under {root}/" if name is None else f"There is no run of {name!r} under {root}/ to resume"
    )
    if damaged:
        raise TopicLoraError(f"{lacking} but damaged ones.", "See: topiclora runs list")
    hint = "Start one with: topiclora quickstart" if name is None else "Start it without --resume."
    raise TopicLoraError(f"{lacking}.", hint)
