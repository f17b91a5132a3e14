"""Scores of one model on a set of tasks, and the difference between two models on the same questions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_PREFERRED = ("acc,none", "exact_match,strict-match", "exact_match,none")


@dataclass(frozen=True)
class TaskScore:
    """Headline metric of a task: mean and standard error over `count` questions, with each question's score."""

    task: str
    metric: str
    value: float
    stderr: float
    count: int
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class EvalResults:
    """One model's scores by task."""

    label: str
    tasks: Mapping[str, TaskScore]

    @classmethod
    def from_harness(
        cls, raw: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]], *, label: str
    ) -> "EvalResults":
        """Pick each task's headline metric: accuracy, else exact match, else the first that lm-eval reports."""
        scores = {}
        for task, metrics in raw["results"].items():
            if task not in samples:  # a group's own row
                continue
            known = [k for k, v in metrics.items() if isinstance(v, float) and "stderr" not in k and "," in k]
            metric = next((name for name in _PREFERRED if name in known), known[0])
            name, _, filter_name = metric.partition(",")
            each = tuple(float(row[name]) for row in samples[task] if row["filter"] == filter_name)
            scores[task] = TaskScore(task, metric, float(metrics[metric]), _stderr(each), len(each), each)
        return cls(label, scores)

    @property
    def mean(self) -> float:
        """Unweighted mean over tasks."""
        return sum(score.value for score in self.tasks.values()) / len(self.tasks)

    @property
    def mean_stderr(self) -> float:
        """Standard error of `mean`, tasks being independent."""
        return math.sqrt(sum(score.stderr**2 for score in self.tasks.values())) / len(self.tasks)


@dataclass(frozen=True)
class Difference:
    """Tuned minus base on one task, paired by question; all in accuracy points from 0 to 1."""

    task: str
    metric: str
    count: int
    base: float
    base_stderr: float
    tuned: float
    tuned_stderr: float
    delta: float
    delta_stderr: float


def compare(base: EvalResults, tuned: EvalResults) -> list[Difference]:
    """Differences by task, in tuned's order, for the tasks both have."""
    return [_difference(base.tasks[task], score) for task, score in tuned.tasks.items() if task in base.tasks]


def summary(base: EvalResults | None, tuned: EvalResults) -> dict[str, Any]:
    """What is stored beside lm-eval's own files: the mean and each task, without the per-question scores."""
    rows = compare(base, tuned) if base is not None else []
    return {
        "tuned_mean": tuned.mean,
        "tuned_mean_stderr": tuned.mean_stderr,
        "base_mean": base.mean if base is not None else None,
        "base_mean_stderr": base.mean_stderr if base is not None else None,
        "delta_mean": sum(row.delta for row in rows) / len(rows) if rows else None,
        "delta_mean_stderr": math.sqrt(sum(row.delta_stderr**2 for row in rows)) / len(rows) if rows else None,
        "tasks": [asdict(row) for row in rows]
        or [
            {"task": s.task, "metric": s.metric, "count": s.count, "tuned": s.value, "tuned_stderr": s.stderr}
            for s in tuned.tasks.values()
        ],
    }


def _difference(base: TaskScore, tuned: TaskScore) -> Difference:
    paired = [t - b for b, t in zip(base.scores, tuned.scores, strict=True)]
    return Difference(
        task=tuned.task,
        metric=tuned.metric,
        count=tuned.count,
        base=base.value,
        base_stderr=base.stderr,
        tuned=tuned.value,
        tuned_stderr=tuned.stderr,
        delta=tuned.value - base.value,
        delta_stderr=_stderr(paired),
    )


def _stderr(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
