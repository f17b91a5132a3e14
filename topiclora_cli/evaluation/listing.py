"""Which tasks, groups and tags there are to evaluate, told without loading any, with the data that each needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Literal

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.harness import OUR_TASKS, EvalRequest, make_task_manager

if TYPE_CHECKING:
    from topiclora_cli.evaluation.data_needed import DataNeeded

EVERYTHING = "*"
Kind = Literal["task", "group", "tag"]


@dataclass(frozen=True)
class Listed:
    """A name that --tasks takes. kind: a group has scores of its own, a tag stands for its tasks.

    output: lm-eval's output type of a task. data: what its questions are read from, or those of its tasks; empty where
    a function makes them, which is `ours` or of whom nobody knows what it reads.
    """

    name: str
    kind: Kind
    output: str
    data: tuple["DataNeeded", ...]
    ours: bool = False

    @property
    def at_hand(self) -> bool | None:
        """Whether all of the data is; None where nobody can tell."""
        return all(each.at_hand for each in self.data) if self.data else self.ours or None


def list_tasks(
    pattern: str = EVERYTHING, *, include_path: str | None = None, datasets_dir: str | None = None
) -> list[Listed]:
    """What matches a glob pattern, or has it in its name, by name.

    Without a pattern, all but the parts of a group or tag that are called like it: mmlu goes for its subjects. Raises
    TopicLoraError where nothing matches.
    """
    request = EvalRequest(tasks=[EVERYTHING], include_path=include_path, datasets_dir=datasets_dir)
    manager = make_task_manager(request, every=True)
    names = list(_outermost(manager)) if pattern == EVERYTHING else _matching(manager.all_tasks, pattern)
    if not names:
        raise TopicLoraError(f"lm-eval has no task {pattern!r}.", nearest(pattern, manager.all_tasks))
    return [_listed(manager, name, datasets_dir) for name in sorted(names)]


def _matching(names: list[str], pattern: str) -> list[str]:
    glob = pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*"
    return [name for name in names if fnmatch(name, glob)]


def _outermost(manager: Any) -> Iterator[str]:
    index = manager.task_index
    parts = {
        part
        for holder in index.values()
        for part in (*(holder.tags if holder.kind.name == "TAG" else ()), *_parts(holder))
        if part != _first_word(part) == _first_word(holder.name)
    }
    yield from (name for name in index if name not in parts)


def _first_word(name: str) -> str:
    return name.partition("_")[0]


def _parts(entry: Any) -> Iterator[str]:
    parts = (entry.cfg or {}).get("task")
    for part in parts if isinstance(parts, list) else ():
        named = part if isinstance(part, str) else part.get("task", part.get("group"))
        if isinstance(named, str):
            yield named


def _listed(manager: Any, name: str, datasets_dir: str | None) -> Listed:
    from topiclora_cli.evaluation.data_needed import data_needed

    kind: Kind = "task"
    if name in manager.all_groups:
        kind = "group"
    elif name in manager.all_tags:
        kind = "tag"
    entry = manager.task_index.get(name)
    output = (entry.cfg or {}).get("output_type", "") if entry is not None and kind == "task" else ""
    tasks = [manager.task_index[tag] for tag in entry.tags] if entry is not None and kind == "tag" else [entry]
    ours = all(
        each is not None and each.yaml_path is not None and OUR_TASKS in each.yaml_path.parents for each in tasks
    )
    return Listed(name, kind, output, tuple(data_needed(manager, name, datasets_dir)), ours)
