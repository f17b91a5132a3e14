"""What is lost where routing is interfered with, question by question: by topic, and on an expert's own questions."""

import numpy as np
import pytest

from topiclora_cli.evaluation.asking import Answered
from topiclora_cli.evaluation.routers.drops import by_topic, changes, own_and_others, owner_by_topic

TOPICS = [("maths",)] * 6 + [("poems", "maths")] * 2 + [("poems",)] * 6
OWNERS = [0] * 6 + [None] * 2 + [1] * 6


def answered(loss, score=None):
    loss = np.asarray(loss, dtype=float)
    return Answered(np.zeros(14) if score is None else np.asarray(score), np.full(14, np.nan), loss)


BEFORE = answered(np.linspace(1, 2, 14))
LOST = np.array([1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 0.5, 0.5, *[0.0] * 6])
AFTER = answered(BEFORE.answer_loss + LOST)


def test_changes_are_paired_and_what_no_question_has_is_left_out():
    found = changes(BEFORE, AFTER)
    assert found.change.keys() == {"score", "answer_loss"}
    assert found.after["answer_loss"] - found.before["answer_loss"] == pytest.approx(0.5)
    interval = found.change["answer_loss"]
    assert interval.mean == pytest.approx(0.5)
    assert interval.low < interval.mean < interval.high
    nothing = changes(BEFORE, BEFORE).change["answer_loss"]
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)


def test_a_topic_has_the_changes_of_all_its_questions():
    found = by_topic(TOPICS, BEFORE, AFTER)
    assert {topic: each.count for topic, each in found.items()} == {"maths": 8, "poems": 8}
    assert found["maths"].change["answer_loss"].mean == pytest.approx(7 / 8)
    assert found["poems"].change["answer_loss"].mean == pytest.approx(1 / 8)


def test_an_expert_that_matters_for_its_own_questions_alone_shows():
    own, others, apart = own_and_others(OWNERS, 0, BEFORE, AFTER, "answer_loss")
    assert (own.mean, others.mean, apart.mean) == (pytest.approx(1), pytest.approx(0), pytest.approx(1))
    assert apart.low > 0.8
    assert own_and_others(OWNERS, 1, BEFORE, AFTER, "answer_loss")[2].mean == pytest.approx(-1)
    assert own_and_others(OWNERS, 2, BEFORE, AFTER, "answer_loss") is None


def test_a_question_belongs_to_the_expert_that_has_most_of_its_topics():
    assignment = {"maths": [0.9, 0.1], "poems": [0.2, 0.8], "jokes": [0.3, 0.7]}
    assert owner_by_topic(assignment, ["maths"]) == 0
    assert owner_by_topic(assignment, ["maths", "poems", "jokes"]) == 1
    assert owner_by_topic(assignment, ["unheard of"]) is None
