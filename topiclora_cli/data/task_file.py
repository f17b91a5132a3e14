"""A task of one's own in one YAML file: keys and their lines, checked before anything is read of the data.

    data: quiz.csv                      # parquet, jsonl, json or csv, seen from the file itself
    question: "{{ question }}\\nAnswer:" # a column, or a Jinja template over the columns
    choices: options                    # a column, an expression or a list; without it the model writes its answer
    answer: answer                      # the right choice, its place from 0 or its letter; else the text to write

A file with keys of lm-eval's own is lm-eval's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.yaml_text import UniqueLoader

_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "data", "question", "answer", "regex", "by", "filter", "examples"), (str,)),
    **{"choices": (str, list), "stop": (str, list), "shots": (int,), "limit": (int,), "max_tokens": (int,)},
    **dict.fromkeys(("ignore_case", "ignore_punctuation"), (bool,)),
}
_NEEDED = ("data", "question", "answer")
_LM_EVAL = {"group", "class", "include", "dataset_path", "custom_dataset", "output_type", "doc_to_text"}
_NAMES = {str: "text", list: "a list", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class TaskFile:
    """What a task file says.

    question, answer: a column or a template; choices: the same, or a list of texts, None for free answers, of which
    `regex` takes the part that counts. by: a column, each value of which is a task. examples: a file of worked
    examples, of which `shots` are shown. stop: what ends an answer. lines: of each key, for messages.
    """

    path: Path
    task: str
    data: str
    question: str
    answer: str
    choices: str | list[Any] | None = None
    regex: str | None = None
    by: str | None = None
    filter: str | None = None
    examples: str | None = None
    shots: int = 0
    limit: int | None = None
    stop: str | list[str] = "\n"
    max_tokens: int = 32
    ignore_case: bool = False
    ignore_punctuation: bool = False
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)

    def where(self, key: str) -> str:
        """The place of a key, as messages call it."""
        return f"{self.path}, line {self.lines.get(key, 1)}: {key}"


def is_task_file(name: str) -> bool:
    """Whether what is asked for is a file of a task, and no task's name."""
    return name.endswith((".yaml", ".yml"))


def read_task_file(path: Path) -> TaskFile | None:
    """The task that a file says in our format, None for one in lm-eval's.

    Raises TopicLoraError, with the line, for a file that is missing or no YAML, an unknown key (with the nearest), a
    missing one, and a value of another kind.
    """
    lines = lines_of(path)
    if lines.keys() & _LM_EVAL:
        return None
    for key, line in lines.items():
        if key not in _KINDS:
            raise TopicLoraError(f"{path}, line {line}: no key {key!r} is known.", nearest(key, _KINDS))
    if missing := [key for key in _NEEDED if key not in lines]:
        raise TopicLoraError(
            f"{path}, line 1: there is no {missing[0]!r}.",
            "A task needs data, question and answer; one of lm-eval's own has a dataset_path.",
        )
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in values.items():
        kinds = _KINDS[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TopicLoraError(
                f"{path}, line {lines[key]}: {key} is {value!r}, and is to be {' or '.join(_NAMES[k] for k in kinds)}.",
                "Put text that looks like something else in quotes.",
            )
    found = TaskFile(**{"path": path, "task": path.stem, **values, "lines": lines})
    _check(found)
    return found


def lines_of(path: Path) -> dict[str, int]:
    """The line of each key at the top of a YAML file; raises TopicLoraError, with the line, for what is none."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), UniqueLoader)
    except FileNotFoundError:
        raise TopicLoraError(f"There is no task file {path}.", f"Looked for it from {Path.cwd()}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TopicLoraError(f"The task file {path} cannot be read: {error}.", "A task file is YAML.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        why = error.problem or error.context
        raise TopicLoraError(f"{path}{line}: this is no valid YAML: {why}.", "Mend it.") from None
    if not isinstance(node, yaml.MappingNode):
        raise TopicLoraError(f"{path}, line 1: a task file is a mapping of keys.", "Example: data: quiz.csv")
    return {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


def _check(file: TaskFile) -> None:
    if not re.fullmatch(r"[\w.-]+", file.task):
        raise TopicLoraError(f"{file.where('task')} {file.task!r} is no name.", "Use letters, digits and . _ - alone.")
    for key in ("shots", "limit", "max_tokens"):
        value = getattr(file, key)
        if value is not None and value < (0 if key == "shots" else 1):
            raise TopicLoraError(f"{file.where(key)} is {value}.", "Give at least 1, or leave it out.")
    if file.shots and file.examples is None:
        raise TopicLoraError(f"{file.where('shots')} are drawn from nothing.", "Name a file of them by examples.")
    if file.regex is not None:
        if file.choices is not None:
            raise TopicLoraError(
                f"{file.where('regex')} is for answers that are written, not chosen.", "Leave one out."
            )
        try:
            groups = re.compile(file.regex).groups
        except re.error as error:
            raise TopicLoraError(f"{file.where('regex')} is no regular expression: {error}.", "Mend it.") from None
        if groups > 1:
            raise TopicLoraError(f"{file.where('regex')} has {groups} groups.", "Use one, and (?:...) for the others.")
