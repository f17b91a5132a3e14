"""A recipe's own multiple-choice questions as tasks of lm-eval's, one for each kind, named at once by one tag."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets

from topiclora_cli.evaluation.file_tasks import TaskFiles, add_to_index, located
from topiclora_cli.evaluation.harness import QUESTIONS
from topiclora_cli.evaluation.task_index import IndexedManager


class Question(Protocol):
    """A multiple-choice question as text; `answer` is the right choice's place. kind: the task that it belongs to."""

    @property
    def prompt(self) -> str: ...
    @property
    def choices(self) -> tuple[str, ...]: ...
    @property
    def answer(self) -> int: ...
    @property
    def kind(self) -> str: ...


class QuestionManager(IndexedManager):
    """lm-eval's TaskManager that knows `topiclora_questions`, each kind of them as `topiclora_questions_KIND`, and
    tasks that are files by the files' names."""

    def __init__(self, questions: Sequence[Question], files: TaskFiles, **settings: Any) -> None:
        super().__init__(**settings)
        self._questions: dict[str, list[Question]] = {}
        for question in questions:
            self._questions.setdefault(f"{QUESTIONS}_{question.kind}", []).append(question)
        self._made = files.made
        self._theirs = {add_to_index(Path(each), self._index): each for each in files.theirs}
        self._files = {**files.names, **{asked: [name] for name, asked in self._theirs.items()}}

    @property
    def all_tasks(self) -> list[str]:
        """All names of tasks, groups and tags."""
        own = [QUESTIONS, *self._questions] if self._questions else []
        return [*super().all_tasks, *own, *self._made]

    @property
    def whole(self) -> bool:
        """Whether every member of a group of somebody's file is known."""
        groups = [(self._index[name].cfg or {}).get("task") for name in self._theirs]
        members = [each for group in groups if isinstance(group, list) for each in group]
        return all(each in self._index for each in members if isinstance(each, str))

    def match_tasks(self, task_list: list[str]) -> list[str]:
        """Names that there are, by glob patterns; a tag or file that matches stands for its tasks."""
        of_files = [name for asked in task_list for name in self._files.get(asked, ())]
        found = super().match_tasks([asked for asked in task_list if asked not in self._files])
        return [*of_files, *(name for name in found if name not in self._questions or QUESTIONS not in found)]

    def _load_spec(self, spec: Any) -> Any:
        if spec == QUESTIONS:
            return [_task(name, rows) for name, rows in self._questions.items()]
        if spec in self._made:
            return self._made[spec]()
        if spec in self._theirs:
            with located(Path(self._theirs[spec])):
                return super()._load_spec(spec)
        return _task(spec, self._questions[spec]) if spec in self._questions else super()._load_spec(spec)


def _task(name: str, rows: Sequence[Question]) -> Any:
    from lm_eval.api.task import ConfigurableTask

    def load(**_: Any) -> dict[str, datasets.Dataset]:
        columns = [{"prompt": row.prompt, "choices": list(row.choices), "answer": row.answer} for row in rows]
        return {"test": datasets.Dataset.from_list(columns)}

    return ConfigurableTask(
        config={
            "task": name,
            "tag": QUESTIONS,
            "custom_dataset": load,
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": " ",
            "num_fewshot": 0,
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
    )
