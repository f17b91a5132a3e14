"""What is asked: kinds of prompts, guesses by those who have not seen them, and what experts tell of kinds."""

import math
from dataclasses import replace

import pytest
import torch

from topiclora_cli.topics.attribution import attribution_report
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.evidence import (
    Evidence,
    best_temperature,
    gather_evidence,
    guesses,
    information,
    kinds_of,
)
from topiclora_cli.topics.experts import consistency_loss
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.projector import Prompts, fit_projector, gather_training_pairs, scores
from topiclora_cli.topics.settings import GraphSettings

ENCODER = HashEncoder(64)


@pytest.fixture(scope="module")
def pairs(small):
    """Twelve prompts of six kinds, two of each, whose words give the kind away."""
    words = ["plus", "unknown", "theorem", "verse", "laugh", "tale"]
    tags = [[name] for name in small.names]
    tags[0] = ["sums", "algebra"]
    prompts = [f"{word} {word} {extra}" for extra in ("one", "two") for word in words]
    vectors = Prompts(ENCODER.encode(prompts), tags * 2)
    return gather_training_pairs(small, ENCODER.encode(small.texts), ENCODER.encode(small.task_texts), vectors)


def test_kinds_are_patterns_in_order_of_appearance():
    assert kinds_of([(0, 2), (1,), (0, 2), (2,)]).tolist() == [0, 1, 0, 2]


def test_kinds_pool_their_prompts():
    evidence = Evidence(torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]]), torch.tensor([0, 0, 1]), 0.2)
    topics, share = evidence.kinds
    torch.testing.assert_close(topics, torch.tensor([[0.7, 0.3], [0.0, 1.0]]))
    torch.testing.assert_close(share, torch.tensor([2 / 3, 1 / 3]))


@pytest.mark.parametrize(
    ("experts", "told"),
    [([0, 0, 1, 1], 1.0), ([0, 1, 0, 1], 0.0), ([0, 0, 0, 0], 0.0), ([0, 0, 0, 1], None)],
)
def test_information_by_hand(experts, told):
    kind = torch.tensor([0, 0, 1, 1])
    if told is None:  # three quarters to expert 0: H(3/4) less what stays open within kind 1
        told = (-0.75 * math.log(0.75) - 0.25 * math.log(0.25) - 0.5 * math.log(2)) / math.log(2)
    assert information(experts, kind, 2) == pytest.approx(told, abs=1e-12)


def test_every_kind_weighs_the_same():
    even = information([0, 1], torch.tensor([0, 1]), 2)
    assert information([0] * 9 + [1], torch.tensor([0] * 9 + [1]), 2) == pytest.approx(even) == pytest.approx(1)


def test_consistency_is_zero_at_best_and_three_at_worst():
    share = torch.tensor([0.5, 0.5])
    best = consistency_loss(assignment=torch.eye(2), topics=torch.eye(2), share=share)
    assert float(best) == pytest.approx(0, abs=1e-6)
    one = consistency_loss(assignment=torch.tensor([[1.0, 0.0], [1.0, 0.0]]), topics=torch.eye(2), share=share)
    assert float(one) == pytest.approx(2, abs=1e-6)
    unsure = consistency_loss(assignment=torch.full((2, 2), 0.5), topics=torch.eye(2), share=share)
    assert float(unsure) == pytest.approx(1, abs=1e-6)


def test_a_guess_comes_from_a_projector_that_has_not_seen_the_prompt(pairs):
    found = guesses(pairs)
    rest = pairs.without(torch.tensor([0, 5, 10]))  # the first of five folds
    torch.testing.assert_close(found[[0, 5, 10]], scores(fit_projector(rest), pairs.x[[0, 5, 10]]))
    changed = replace(pairs, topics=[(3, 4, 5), *pairs.topics[1:]])
    assert torch.equal(guesses(changed)[0], found[0])


def test_the_temperature_brings_the_guesses_to_the_tags():
    targets = torch.eye(4)
    assert best_temperature(targets * 1.0, targets) == 0.02
    assert best_temperature(torch.ones(4, 4) - 0.1 * targets, targets) == 0.5


def test_evidence_is_in_tagged_prompts_alone(small, pairs):
    told = gather_evidence(pairs)
    assert told.topics.shape == (12, 6)
    assert told.kind.tolist() == [0, 1, 2, 3, 4, 5] * 2
    torch.testing.assert_close(told.topics.sum(1), torch.ones(12))
    assert gather_evidence(gather_training_pairs(small, ENCODER.encode(small.texts))) is None


def test_attribution_of_kinds_seen_and_never_seen(small, pairs):
    texts = ENCODER.encode(small.texts)
    graph = fit_topic_graph(small, texts, GraphSettings(num_experts=2, width=16, steps=60), pairs=pairs)
    state = torch.random.get_rng_state()
    found = attribution_report(graph, small, texts, pairs)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (found.prompts, found.kinds, found.topics) == (12, 6, 1)  # algebra alone is on two kinds
    assert found.seen == 1.0
    assert 0 <= found.unseen <= 1
    assert found.kl_seen < found.kl_uniform
    assert 0.5 < found.information <= 1
    assert attribution_report(graph, small, texts, gather_training_pairs(small, texts)) is None
