"""Scores of one model on a set of tasks and groups, and the difference between two models on the same questions."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topiclora_cli.evaluation.metrics import Metric
from topiclora_cli.runs.results.evaluation import Compared, EvalSummary, MeanScores, TaskScores

RESAMPLES = 100  # of the questions, for the error of a difference that is no mean; lm-eval takes as many for BLEU


@dataclass(frozen=True)
class Score:
    """A task's or group's metrics by lm-eval's key, one of them the headline, over `count` questions.

    depth: how many groups it stands in, as listed.
    """

    name: str
    metrics: Mapping[str, Metric]
    headline: str
    count: int
    group: bool = False
    depth: int = 0

    @property
    def metric(self) -> Metric:
        """The headline metric."""
        return self.metrics[self.headline]


@dataclass(frozen=True)
class EvalResults:
    """One model's scores by task and group, in the order to list them.

    counted: those whose headline the mean takes, each question once. failed: task or group -> reason, for what could
    not be scored.
    """

    label: str
    scores: Mapping[str, Score]
    counted: Sequence[str] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def summary(base: EvalResults | None, tuned: EvalResults, *, name: str = "") -> EvalSummary:
    """What is stored beside lm-eval's own files: the mean and every metric of each task and group.

    Differences are tuned minus base, paired by question; what has no error, or no base, is None.
    """
    rows = []
    for score in tuned.scores.values():
        other = base.scores.get(score.name) if base is not None else None
        metrics = {key: _compared(key, other, base, score, tuned) for key in score.metrics}
        rows.append(
            TaskScores(
                task=score.name,
                group=score.group,
                depth=score.depth,
                counted=score.name in tuned.counted,
                metric=score.metric.name,
                filter=score.metric.filter,
                count=score.count,
                metrics=metrics,
                # A metric that the base's run lacks still counts as the task's.
                **vars(metrics[score.headline]),
            )
        )
    failed = {**(base.failed if base is not None else {}), **tuned.failed}
    return EvalSummary(name, _mean([row for row in rows if row.counted]), tuple(rows), failed)


def by_question(results: EvalResults) -> dict[str, dict[str, list[float]]]:
    """Of each task what each question adds to every metric that is a mean over questions, in the questions' order."""
    return {
        name: {
            key: [float(each) for each in metric.scores]
            for key, metric in score.metrics.items()
            if metric.aggregate is None and len(metric.scores) == score.count
        }
        for name, score in results.scores.items()
        if not score.group
    }


_MEASURES = ("base", "base_stderr", "tuned", "tuned_stderr", "delta", "delta_stderr")


def _compared(key: str, other: Score | None, base: EvalResults | None, score: Score, tuned: EvalResults) -> Compared:
    new = score.metrics[key]
    old = other.metrics.get(key) if other is not None else None
    stderr = None
    if old is not None and base is not None:
        stderr = _group_stderr(key, new, base, tuned) if score.group else paired_stderr(old, new)
    return Compared(
        unit=new.unit,
        higher_is_better=new.higher_is_better,
        base=old.value if old is not None else None,
        base_stderr=old.stderr if old is not None else None,
        tuned=new.value,
        tuned_stderr=new.stderr,
        delta=new.value - old.value if old is not None else None,
        delta_stderr=stderr,
    )


def paired_stderr(base: Metric, tuned: Metric) -> float | None:
    """Standard error of tuned minus base over the same questions; None for a metric that lm-eval gives no error.

    Of a mean it is that of the questions' differences; of anything else the deviation over questions drawn anew, for
    both models alike (paired bootstrap, Efron and Tibshirani 1993, with a fixed seed).
    """
    count = len(tuned.scores)
    if base.stderr is None or tuned.stderr is None or len(base.scores) != count or count < 2:
        return None
    if tuned.aggregate is None:
        return mean_stderr([float(t) - float(b) for b, t in zip(base.scores, tuned.scores, strict=True)])
    draw, aggregate = random.Random(0), tuned.aggregate
    differences = []
    for _ in range(RESAMPLES):
        chosen = draw.choices(range(count), k=count)
        new, old = (aggregate([metric.scores[i] for i in chosen]) for metric in (tuned, base))
        differences.append(float(new) - float(old))
    return mean_stderr(differences) * math.sqrt(RESAMPLES)


def mean_stderr(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two values."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def _group_stderr(key: str, group: Metric, base: EvalResults, tuned: EvalResults) -> float | None:
    """Of a weighted mean over tasks, which are independent."""
    total = 0.0
    for task, weight in group.parts.items():
        if task not in base.scores or key not in base.scores[task].metrics:
            return None
        part = paired_stderr(base.scores[task].metrics[key], tuned.scores[task].metrics[key])
        if part is None:
            return None
        total += (weight * part) ** 2
    return math.sqrt(total)


def _mean(rows: Sequence[TaskScores]) -> MeanScores | None:
    """Unweighted mean of the headlines that are shares and better higher, else of all where they are of one kind."""
    kinds = [(row.unit, row.higher_is_better) for row in rows]
    kind = ("share", True) if ("share", True) in kinds else kinds[0] if len(set(kinds)) == 1 else None
    if kind is None:
        return None
    chosen = [row for row, own in zip(rows, kinds, strict=True) if own == kind]
    means: dict[str, Any] = {}
    for name in _MEASURES:
        values = [getattr(row, name) for row in chosen]
        if None in values:
            means[name] = None
        elif name.endswith("stderr"):
            means[name] = math.sqrt(sum(value**2 for value in values)) / len(values)
        else:
            means[name] = sum(values) / len(values)
    return MeanScores(of=tuple(row.task for row in chosen), unit=kind[0], higher_is_better=kind[1], **means)
