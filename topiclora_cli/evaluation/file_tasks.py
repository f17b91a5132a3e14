"""Task files as tasks of lm-eval's: ours made into its settings, its own handed on, mistakes with their lines."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from jinja2 import TemplateError
from lm_eval.config.task import TaskConfig
from lm_eval.tasks._index import TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from topiclora_cli.data.task_file import TaskFile, is_task_file, lines_of, read_task_file
from topiclora_cli.data.task_rows import AskedRow, read_rows
from topiclora_cli.errors import TopicLoraError, nearest

_SHOTS = "examples"
_UNSAFE = re.compile(r"[^\w.-]+")
_WORD = re.compile(r"'(\w+)'")
_BESIDE = {"include", "class", "task_list"}  # keys of a task's file that are no settings of the task


class TaskFiles:
    """The files among what is asked for, read once: `made` has a function that makes each task of ours, by name.

    names: of each file those of its tasks. theirs: the files in lm-eval's format, as asked for. Raises as
    read_task_file and read_rows do.
    """

    def __init__(self, asked: Iterable[str]) -> None:
        self.names: dict[str, list[str]] = {}
        self.made: dict[str, Callable[[], Any]] = {}
        self.theirs: list[str] = []
        for each in filter(is_task_file, asked):
            file = read_task_file(Path(each))
            if file is None:
                self.theirs.append(each)
                continue
            tasks = _tasks(file)
            self.names[each] = list(tasks)
            self.made |= tasks


def add_to_index(path: Path, index: dict[str, Any]) -> str:
    """Have lm-eval's index know a task or group of a file in its own format; returns its name.

    Raises TopicLoraError, with the line, for a key that lm-eval does not know, and for a file that it cannot read.
    """
    lines = lines_of(path)
    if not lines.keys() & {"group", "class", "include"}:
        known = {each.name for each in fields(TaskConfig)} | _BESIDE
        for key, line in lines.items():
            if key not in known:
                raise TopicLoraError(f"{path}, line {line}: lm-eval has no key {key!r}.", nearest(key, known))
    try:
        settings = load_yaml(path, resolve_func=False)
        name = settings.get("group") or settings.get("task")
        index.pop(name, None)  # what a file is asked for goes before what is called the same
        TaskIndex.process_cfg(settings, path, index)
    except (OSError, ValueError, TypeError) as error:
        raise TopicLoraError(f"{path}: {str(error).splitlines()[0]}", "Mend the file.") from None
    if name not in index:
        raise TopicLoraError(f"{path}, line 1: there is no 'task' that names it.", "Example: task: quiz")
    return str(name)


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Turn what is wrong with a task of a file in lm-eval's format into a TopicLoraError that names the file and, where
    the trouble is about a name, the first line that has it."""
    try:
        yield
    except (TemplateError, KeyError, TypeError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        word = next(iter(_WORD.findall(said)), None)
        text = path.read_text(encoding="utf-8").splitlines()
        found = [number for number, line in enumerate(text, 1) if word and re.search(rf"\b{re.escape(word)}\b", line)]
        place = f"{path}, line {found[0]}" if found else str(path)
        raise TopicLoraError(
            f"{place}: the task cannot be posed: {said}.", "Mend it: are its columns those of its data?"
        ) from error


def _tasks(file: TaskFile) -> dict[str, Callable[[], Any]]:
    """One for each value of the file's `by`."""
    shots = read_rows(file, "examples") if file.examples is not None else []
    if file.shots > len(shots):
        raise TopicLoraError(
            f"{file.where('shots')} is {file.shots}, and {file.examples} has {len(shots)} examples.",
            "Lower it, or add some.",
        )
    kinds: dict[str, list[AskedRow]] = {}
    for row in read_rows(file):
        name = f"{file.task}_{_UNSAFE.sub('-', row.kind)}" if row.kind else file.task
        kinds.setdefault(name, []).append(row)
    return {name: partial(_task, name, file, rows[: file.limit], shots) for name, rows in kinds.items()}


def _task(name: str, file: TaskFile, rows: Sequence[AskedRow], shots: Sequence[AskedRow]) -> Any:
    from lm_eval.api.task import ConfigurableTask

    tables = {"test": rows, **({_SHOTS: shots} if shots else {})}

    def load(**_: Any) -> dict[str, datasets.Dataset]:
        return {split: datasets.Dataset.from_list(_columns(file, each)) for split, each in tables.items()}

    chosen = {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
    }
    steps: list[dict[str, Any]] = [{"function": "remove_whitespace"}, {"function": "take_first"}]
    if file.regex is not None:
        steps.insert(0, {"function": "regex", "regex_pattern": file.regex})
    free = {
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {
            "until": [file.stop] if isinstance(file.stop, str) else file.stop,
            "do_sample": False,
            "max_gen_toks": file.max_tokens,
        },
        "filter_list": [{"name": "none", "filter": steps}],
        "metric_list": [
            {
                **{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
                **{"ignore_case": file.ignore_case, "ignore_punctuation": file.ignore_punctuation},
            }
        ],
    }
    return ConfigurableTask(
        config={
            **{"task": name, "custom_dataset": load, "test_split": "test", "doc_to_text": "prompt"},
            **{"target_delimiter": " ", "num_fewshot": file.shots, "metadata": {"version": 1.0}},
            **({"fewshot_split": _SHOTS} if shots else {}),
            **(chosen if file.choices is not None else free),
        }
    )


def _columns(file: TaskFile, rows: Sequence[AskedRow]) -> list[dict[str, Any]]:
    if file.choices is None:
        return [{"prompt": row.prompt, "answer": row.answer} for row in rows]
    return [
        {"prompt": row.prompt, "choices": list(row.choices), "answer": row.choices.index(row.answer)} for row in rows
    ]
