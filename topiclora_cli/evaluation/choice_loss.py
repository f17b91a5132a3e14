"""How much of a multiple-choice question's probability goes to the right choice: a finer measure than its accuracy.

The loss is -log of the right choice's share among the choices, softmax over their log-likelihoods, in nats: that of a
guess among n is log n. It is made of what lm-eval has scored already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean

from topiclora_cli.evaluation.metrics import CHOICE_LOSS


def add_choice_loss(task: Any) -> None:
    """Make a multiple-choice task of lm-eval's report the choice loss beside its own metrics.

    One that judges answers by a function of its own is left alone: which choice is right is then its own matter.
    """
    if getattr(task, "OUTPUT_TYPE", None) != "multiple_choice" or callable(task.config.process_results):
        return
    if CHOICE_LOSS in task.aggregation():
        return
    own = task.process_results

    def process_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
        loss = _loss(task, doc, [likelihood for likelihood, _ in results])
        return {**own(doc, results), **({CHOICE_LOSS: loss} if loss is not None else {})}

    task.process_results = process_results
    task.aggregation()[CHOICE_LOSS] = mean
    task.higher_is_better()[CHOICE_LOSS] = False


def add_to_group(group: Any) -> None:
    """Aggregate the choice loss in a group as its accuracy is, where all of its tasks have it."""
    metrics = group.aggregate_metric_list or []
    accuracy = next((each for each in metrics if each.metric in ("acc", "acc_norm")), None)
    if accuracy is None or any(each.metric == CHOICE_LOSS for each in metrics):
        return
    if all(CHOICE_LOSS in task.aggregation() for task in group.get_all_tasks()):
        # lm-eval shares one list among the groups of one file.
        group.aggregate_metric_list = [*metrics, replace(accuracy, metric=CHOICE_LOSS)]


def right_places(task: Any, doc: Mapping[str, Any], count: int) -> list[int]:
    """Which of a multiple-choice question's first `count` choices are right; none where its data name none there is."""
    choices = task.doc_to_choice(doc)
    right = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    # A number is a place, even where the choices are numbers.
    places = [
        choices.index(each) if isinstance(each, str) and each in choices else each
        for each in (right if isinstance(right, list) else [right])
    ]
    known = all(isinstance(place, int) and 0 <= place < count for place in places)
    return sorted(set(places)) if known else []


def loss_of_choice(scores: np.ndarray, right: Sequence[int]) -> float:
    """-log of the right choices' share by the log-likelihoods of all, in nats."""
    return float(np.logaddexp.reduce(scores) - np.logaddexp.reduce(scores[list(right)]))


def _loss(task: Any, doc: Mapping[str, Any], likelihoods: Sequence[float]) -> float | None:
    """None where the task's data names no choice that there is; lm-eval counts such a question as wrong."""
    # Where mutual information is wanted, the choices without their question follow.
    scores = np.array(likelihoods[: len(task.doc_to_choice(doc))])
    right = right_places(task, doc, len(scores))
    return loss_of_choice(scores, right) if right else None
