"""lm-eval's index of its own thousands of tasks, kept between calls: reading them all takes half a minute.

What is kept of a task is where its file lies, and what tells about it without loading it; who loads it reads its file.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.cache import cache_dir
from topiclora_cli.runs.files import write_text

STOCK = Path(lm_eval.tasks.__file__).parent
_KEPT = ("task", "group", "class", "output_type", "unsafe_code", "custom_dataset")
_OF_DATA = "dataset_"
_LISTS: Mapping[str, tuple[Kind, ...]] = {
    "_all_subtasks": (Kind.TASK, Kind.PY_TASK),
    "_all_groups": (Kind.GROUP,),
    "_all_tags": (Kind.TAG,),
}


class IndexedManager(TaskManager):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's TaskManager, which takes lm-eval's own tasks from the cache where nothing has changed among them."""

    def __init__(self, *, include_path: list[str], include_defaults: bool) -> None:
        super().__init__(include_path=include_path, include_defaults=False)
        if include_defaults:
            # As lm-eval has it, what is included goes before what is its own.
            self._index = {**stock_index(), **self.task_index}
            self._all_tasks = sorted(self._index)
            for name, kinds in _LISTS.items():
                setattr(self, name, sorted(key for key, entry in self.task_index.items() if entry.kind in kinds))


@cache
def stock_index() -> Mapping[str, Entry]:
    """lm-eval's own tasks, groups and tags by name."""
    place, state = cache_dir() / "lm-eval" / "tasks.json", _state()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["state"] == state:
            return {name: _entry(name, *facts) for name, facts in kept["tasks"].items()}
    index: Mapping[str, Entry] = TaskManager(include_defaults=True).task_index
    with contextlib.suppress(OSError, TopicLoraError):  # without a cache it takes longer, and works
        facts = {"state": state, "tasks": {name: _facts(entry) for name, entry in index.items()}}
        write_text(place, json.dumps(facts, default=str))
    return index


def _state() -> str:
    """What changes when any of lm-eval's task files does."""
    digest = hashlib.sha256(str(STOCK).encode())
    for folder, folders, files in os.walk(STOCK):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(files):
            stat = os.stat(os.path.join(folder, name))
            digest.update(f"{folder}/{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _facts(entry: Entry) -> list[Any]:
    settings = {key: value for key, value in (entry.cfg or {}).items() if key in _KEPT or key.startswith(_OF_DATA)}
    place = str(entry.yaml_path.relative_to(STOCK)) if entry.yaml_path is not None else None
    return [entry.kind.name, place, sorted(entry.tags), settings or None]


def _entry(name: str, kind: str, place: str | None, tags: list[str], settings: dict[str, Any] | None) -> Entry:
    return Entry(name, Kind[kind], None if place is None else STOCK / place, settings, set(tags))
