"""Which questions of a task are asked, and by what settings answers are generated, as people write them down."""

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError, nearest

Samples = Mapping[str, tuple[int, ...]]  # task -> places of questions, from 0, in order
Setting = bool | int | float | str | None | Sequence[str]
_SETTINGS = "Example: temperature=0.7,do_sample=true"
_EXAMPLE = """Example: {"arc_easy": [0, 3, 6]}"""


def read_samples(given: Mapping[str, Sequence[int]] | str) -> Samples:
    """The places of questions by task, in order and each once, of a mapping or of a JSON file with one.

    Raises TopicLoraError where the file is not there or holds something else, and for a task without a question.
    """
    where, found = "eval.samples", given
    if isinstance(given, str):
        where, path = f"eval.samples: {given}", Path(given)
        if not path.is_file():
            raise TopicLoraError(f"{where} is no file.", f"Name a JSON file of task: places. {_EXAMPLE}")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TopicLoraError(f"{where} is no JSON: {error}.", _EXAMPLE) from None
    if not isinstance(found, Mapping) or not found:
        raise TopicLoraError(f"{where} is no mapping of tasks to places.", _EXAMPLE)
    for task, places in found.items():
        if not isinstance(places, Sequence) or not places or not all(map(_is_place, places)):
            raise TopicLoraError(f"{where}: {task} has no list of places from 0 (given: {str(places)[:60]}).", _EXAMPLE)
    return {task: tuple(sorted(set(places))) for task, places in found.items()}


def check_samples(samples: Samples, questions: Mapping[str, int]) -> None:
    """Raise TopicLoraError where samples name a task that is not asked, or a question that it does not have.

    questions: how many each task has.
    """
    for task, places in samples.items():
        if task not in questions:
            raise TopicLoraError(f"eval.samples: {task!r} is no task to evaluate.", nearest(task, questions))
        if places[-1] >= questions[task]:
            raise TopicLoraError(
                f"eval.samples: {task} has no question {places[-1]}: it has {questions[task]}, counted from 0.",
                f"Name places up to {questions[task] - 1}.",
            )


def read_settings(given: Mapping[str, Setting] | str | None, *, key: str) -> Mapping[str, Setting]:
    """Settings in a key of the recipe: a mapping, or as lm-eval writes them, `temperature=0.7,until=["Q:"]`, or JSON.

    Raises TopicLoraError for what is neither.
    """
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    if given.lstrip().startswith("{"):
        try:
            return dict(json.loads(given))
        except ValueError as error:
            raise TopicLoraError(f"{key} is no JSON: {error}.", _SETTINGS) from None
    settings = {}
    for part in _parts(given):
        name, equals, value = part.partition("=")
        if not equals:
            raise TopicLoraError(f"{key}: {part!r} sets nothing.", _SETTINGS)
        settings[name.strip()] = _value(value.strip())
    return settings


def _parts(text: str) -> list[str]:
    """Split at commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for mark in text:
        if mark == "," and not depth and not quote:
            parts.append("")
            continue
        if mark in "\"'" and quote in ("", mark):
            quote = "" if quote else mark
        elif not quote:
            depth += (mark in "[({") - (mark in "])}")
        parts[-1] += mark
    return [part for part in parts if part.strip()]


def _value(text: str) -> Setting:
    named: Mapping[str, Setting] = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        value: Setting = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value


def _is_place(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
