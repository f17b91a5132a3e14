"""The choice loss takes the right choice for what lm-eval takes it for."""

import math
from types import SimpleNamespace

import pytest

from topiclora_cli.evaluation.choice_loss import CHOICE_LOSS, add_choice_loss

SCORES = [(math.log(0.2), False), (math.log(0.6), True), (math.log(0.2), False)]


def loss_of(choices, right):
    metrics = {}
    task = SimpleNamespace(
        OUTPUT_TYPE="multiple_choice",
        config=SimpleNamespace(process_results=None),
        aggregation=lambda: metrics,
        higher_is_better=dict,
        multiple_input=0,
        process_results=lambda doc, results: {},
        doc_to_choice=lambda doc: choices,
        doc_to_target=lambda doc: right,
    )
    add_choice_loss(task)
    return task.process_results({}, SCORES).get(CHOICE_LOSS)


@pytest.mark.parametrize(
    ("choices", "right", "share"),
    [
        (["a", "b", "c"], 1, 0.6),
        (["a", "b", "c"], "b", 0.6),
        ([2, 0, 1], 1, 0.6),  # a number is a place among numbers, too
        ([2, 0, 1], [1, 2], 0.8),
        (["a", "b", "c"], -1, None),
        (["a", "b", "c"], "d", None),
    ],
)
def test_a_number_is_a_place_and_a_text_is_a_choice(choices, right, share):
    assert loss_of(choices, right) == (None if share is None else pytest.approx(-math.log(share)))
