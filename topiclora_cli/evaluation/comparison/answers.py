"""What one model answered, read from a folder that lm-eval wrote, of whichever program called it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.comparison.contributions import is_comparable
from topiclora_cli.runs.files import read_json

_SAMPLES = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl")
_AGAIN = "Evaluate again with samples (lm-eval: --log_samples)."


@dataclass(frozen=True)
class TaskAnswers:
    """The questions of a task, by lm-eval's hash and in order, with the hashes of prompt and right answer.

    scores: what every question adds to each metric, called `name,filter` as lm-eval does.
    """

    path: Path
    questions: Mapping[str, tuple[str, str]]
    scores: Mapping[str, Mapping[str, Any]]

    @cached_property
    def comparable(self) -> Sequence[str]:
        """The metrics of single questions that every question has, in the task's own order."""
        kinds = {key: {type(each): each for each in values.values()} for key, values in self.scores.items()}
        return [
            key
            for key, values in self.scores.items()
            if len(values) == len(self.questions) and all(is_comparable(key, each) for each in kinds[key].values())
        ]


@dataclass(frozen=True)
class Facts:
    """What lm-eval recorded of a task. way: of each metric, whether higher is better."""

    version: Any
    shots: Any
    template: Any
    way: Mapping[str, bool | None]


@dataclass(frozen=True)
class Answers:
    """A model's answers by task. folder: where lm-eval's files lie."""

    folder: Path
    files: Mapping[str, Path]
    _read: dict[str, TaskAnswers] = field(default_factory=dict, repr=False, compare=False)

    def task(self, name: str) -> TaskAnswers:
        """A task's samples, read once; raises TopicLoraError where they are damaged or older than lm-eval 0.4.5."""
        if name not in self._read:
            self._read[name] = read_task(self.files[name])
        return self._read[name]

    def facts(self, name: str) -> Facts:
        """What lm-eval's newest results with the task say of it."""
        record = next((each for each in self._results if name in each.get("versions", {})), {})
        parts = (record.get("versions", {}), record.get("n-shot", {}))
        version, shots = (part.get(name) for part in parts)
        return Facts(version, shots, record.get("chat_template_sha"), record.get("higher_is_better", {}).get(name, {}))

    @cached_property
    def groups(self) -> Mapping[str, tuple[Sequence[str], Mapping[str, float]]]:
        """Members and lm-eval's values of every group that has any."""
        found: dict[str, tuple[Sequence[str], Mapping[str, float]]] = {}
        for record in self._results:
            members = record.get("group_subtasks", {})
            for name, values in (record.get("groups") or {}).items():
                numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
                found.setdefault(name, (_leaves(members, name), numbers))
        return found

    @cached_property
    def _results(self) -> list[Mapping[str, Any]]:
        """lm-eval's results in this folder, the newest first."""
        paths = sorted(self.folder.glob("results_*.json"), reverse=True)
        return [read_json(path, hint=_AGAIN) for path in paths]


def find_answers(folder: Path) -> Answers:
    """The newest samples of each task in an output folder of lm-eval's, or in the one model's folder that it holds.

    Raises TopicLoraError where there are none, or of several models.
    """
    holding = [each for each in (folder, *sorted(folder.glob("*/"))) if any(each.glob("samples_*.jsonl"))]
    if not holding:
        scored = any(folder.glob("results_*.json")) or any(folder.glob("*/results_*.json"))
        raise TopicLoraError(f"{folder} has {'scores but ' if scored else ''}no samples of lm-eval's.", _AGAIN)
    if holding[0] != folder and len(holding) > 1:
        raise TopicLoraError(
            f"{folder} holds the answers of several models.", nearest("", [str(each) for each in holding])
        )
    files: dict[str, tuple[str, Path]] = {}
    for path in holding[0].glob("samples_*.jsonl"):
        if match := _SAMPLES.fullmatch(path.name):
            task, date = match.groups()
            files[task] = max(files.get(task, (date, path)), (date, path))
    return Answers(holding[0], {task: path for task, (_, path) in sorted(files.items())})


def read_task(path: Path) -> TaskAnswers:
    """Read a file of samples; a question that a task asks twice counts twice."""
    questions: dict[str, tuple[str, str]] = {}
    scores: dict[str, dict[str, Any]] = {}
    for name, row in rows(path):
        questions.setdefault(name, (row["prompt_hash"], row["target_hash"]))
        for metric in row["metrics"]:
            scores.setdefault(f"{metric},{row['filter']}", {})[name] = row[metric]
    return TaskAnswers(path, questions, scores)


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of a file of samples with its question's name: the hash, numbered where a task asks it again."""
    seen: dict[tuple[str, str], int] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                name, pipeline = row["doc_hash"], row["filter"]
                row["prompt_hash"], row["target_hash"], row["metrics"]
            except (ValueError, TypeError):
                raise TopicLoraError(f"{path}, line {number}, is not valid JSON.", _AGAIN) from None
            except KeyError as error:
                raise TopicLoraError(
                    f"{path}, line {number}, has no {error.args[0]}.", "Evaluate again with lm-eval 0.4.5 or later."
                ) from None
            count = seen[name, pipeline] = seen.get((name, pipeline), 0) + 1
            yield (name if count == 1 else f"{name}#{count}"), row


def _leaves(members: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """The tasks under a group; one that two parts of it hold comes twice, as lm-eval counts it."""
    children = members.get(name)
    return [leaf for child in children for leaf in _leaves(members, child)] if children else [name]
