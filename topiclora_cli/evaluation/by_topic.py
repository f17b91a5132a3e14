"""Scores sorted by what questions are about, across tasks: which questions were asked, and the scores of each part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topiclora_cli.evaluation.comparison.parts import part_intervals
from topiclora_cli.evaluation.harness import EvalRequest, question_text
from topiclora_cli.evaluation.loading import Tasks
from topiclora_cli.evaluation.results import mean_stderr
from topiclora_cli.runs.results.evaluation import EvalSummary, PartScores, QuestionScores

Parts = Mapping[str, Sequence[Sequence[str]]]  # task -> of each question the parts that it belongs to


@dataclass(frozen=True)
class AskedText:
    """A question's text, without shots, and the topics that its data gives it."""

    text: str
    topics: tuple[str, ...]


def asked_texts(tasks: Tasks, request: EvalRequest) -> dict[str, list[AskedText]]:
    """The questions that are asked of every task, in lm-eval's order."""
    found: dict[str, list[AskedText]] = {}
    for name, task in tasks.tasks.items():
        count = len(task.eval_docs)
        places = sorted(set(request.samples[name])) if name in request.samples else range(request.asks(name, count))
        docs = (task.eval_docs[place] for place in places)
        found[name] = [AskedText(question_text(task, doc), tuple(doc.get("topics") or ())) for doc in docs]
    return found


def scored_tasks(summary: EvalSummary, answers: QuestionScores) -> dict[str, str]:
    """Tasks whose headline is a share that is a mean over questions, as accuracy is -> its key."""
    return {
        task.task: task.key
        for task in summary.tasks
        if task.unit == "share" and task.higher_is_better and task.key in answers.tuned.get(task.task, {})
    }


def scores_of_parts(parts: Parts, answers: QuestionScores, keys: Mapping[str, str]) -> tuple[PartScores, ...]:
    """The mean over the questions of each part, of all tasks in `keys` (task -> metric), the largest part first.

    A question of several parts counts in each.
    """
    tuned: dict[str, list[float]] = {}
    base: dict[str, list[float]] = {}
    for task, key in keys.items():
        for place, names in enumerate(parts[task]):
            for name in names:
                tuned.setdefault(name, []).append(answers.tuned[task][key][place])
                if answers.base is not None and key in answers.base.get(task, {}):
                    base.setdefault(name, []).append(answers.base[task][key][place])
    found = [_part(name, values, base.get(name, [])) for name, values in tuned.items()]
    return tuple(sorted(found, key=lambda part: (-part.count, part.part)))


def _part(name: str, tuned: Sequence[float], base: Sequence[float]) -> PartScores:
    paired = len(base) == len(tuned)
    change = [new - old for new, old in zip(tuned, base, strict=True)] if paired else []
    ends = part_intervals([np.array([change])])[0] if paired else None
    return PartScores(
        part=name,
        count=len(tuned),
        unit="share",
        higher_is_better=True,
        base=_mean(base) if paired else None,
        base_stderr=_error(base) if paired else None,
        tuned=sum(tuned) / len(tuned),
        tuned_stderr=_error(tuned),
        delta=_mean(change),
        delta_stderr=_error(change),
        low=None if ends is None else ends.low,
        high=None if ends is None else ends.high,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _error(values: Sequence[float]) -> float | None:
    return mean_stderr(values) if len(values) > 1 else None
