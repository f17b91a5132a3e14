"""Routing of prompts that join two topics, where the answer is known."""

import math

import pytest
import torch

from topiclora_cli.evaluation.routers.joined import joined_routing

ALONE = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]])
BOTH = torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5]])  # questions 0 and 1, 1 and 2


def test_gates_that_mix_both_are_at_the_mixture_and_as_far_from_one_as_half_a_change_is():
    found = joined_routing({"a": ALONE}, {"a": BOTH}, [0, 1], [1, 2])
    both, own = found.gates
    assert both.mean == pytest.approx(0)
    assert own.mean == pytest.approx(math.log(2) * 1.5 - 0.75 * math.log(3), abs=1e-5)
    assert (found.prior, found.gates_from_prior, found.weight) == (None, None, None)


def test_gates_that_stay_with_the_asked_question_give_the_other_topic_nothing():
    stays = joined_routing({"a": ALONE}, {"a": ALONE[:2]}, [0, 1], [1, 2], [ALONE, BOTH])
    assert stays.gates[1].mean == pytest.approx(0)
    assert stays.weight.mean == pytest.approx(0)
    mixes = joined_routing({"a": ALONE}, {"a": BOTH}, [0, 1], [1, 2], [ALONE, BOTH])
    assert (mixes.weight.mean, mixes.apart) == (pytest.approx(0.5), 2)
    assert mixes.prior[0].mean == pytest.approx(0)
    assert mixes.gates_from_prior[0].mean == pytest.approx(0)


def test_two_topics_of_one_expert_say_nothing_of_its_gate():
    found = joined_routing({"a": ALONE}, {"a": ALONE[:1]}, [0], [3], [ALONE, ALONE[:1]])
    assert (found.weight, found.apart) == (None, 0)


def test_layers_of_another_number_of_experts_are_not_held_against_the_prior():
    wide = torch.eye(4)
    found = joined_routing({"a": wide}, {"a": wide[:2]}, [0, 1], [1, 2], [ALONE, BOTH])
    assert found.gates_from_prior is None
    assert found.prior[0].mean == pytest.approx(0)
