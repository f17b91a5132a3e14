"""The number of experts: chances and likelihoods by hand, the rule, and planted groups that are found again."""

import math
from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.graph import Candidate
from topiclora_cli.topics.choose import block_chances, choose_experts, decide, likelihood, numbers_to_try
from topiclora_cli.topics.graph import rewire, standardise
from topiclora_cli.topics.settings import GraphSettings

SETTINGS = GraphSettings(steps=50, width=32)


def planted(seed, *, topics=60, groups=6, inside=0.5, outside=0.05, noise=1.5):
    """Groups of topics tied more often inside than outside, with features that only hint at the group."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(topics) % groups
    chance = torch.where(label[:, None] == label, inside, outside)
    once = (torch.rand(topics, topics, generator=generator) < chance).triu(1).nonzero().T
    centre = torch.randn(groups, 32, generator=generator)
    x = standardise(centre[label] + noise * torch.randn(topics, 32, generator=generator))
    return Data(x=x, edge_index=torch.cat((once, once.flip(0)), 1), edge_weight=torch.ones(2 * once.shape[1]))


def test_chances_and_likelihood_by_hand():
    hard = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    ties, gaps = torch.tensor([[0], [1]]), torch.tensor([[0, 2], [2, 3]])
    # A third of the pairs is tied. A pair inside an expert meets itself both ways round.
    chances = block_chances(hard, ties, gaps)
    third = 1 / 3
    expected = torch.tensor([[(2 + third) / 3, third / 2], [third / 2, third / 3]])
    assert torch.allclose(chances, expected)
    told = math.log((2 + third) / 3) + math.log(1 - third / 2) + math.log(1 - third / 3)
    assert likelihood(hard, chances, ties, gaps) == pytest.approx(told / 3)


def test_a_gap_that_stands_for_two_counts_twice():
    soft = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), 1)
    ties, gaps = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 3], [4, 4]])
    twice = gaps.repeat(1, 2)
    chances = block_chances(soft, ties, gaps, weigh=2)
    assert torch.allclose(chances, block_chances(soft, ties, twice))
    one, other = likelihood(soft, chances, ties, gaps, weigh=2), likelihood(soft, chances, ties, twice)
    assert one == pytest.approx(other)


def test_the_fewest_experts_within_a_standard_error_that_all_have_topics():
    def candidate(experts, value, dead=0):
        return Candidate(experts, value, error=0.01, modularity=0.3 + experts / 100, dead=dead)

    rows = [candidate(2, -0.40), candidate(4, -0.309), candidate(8, -0.30), candidate(16, -0.25, dead=1)]
    choice = decide(rows, chance=-0.45)
    assert choice.experts == 4
    assert choice.candidates == tuple(rows)
    assert "best number, 8" in choice.reason
    assert "modularity peaks at 16" in choice.reason
    assert decide([candidate(2, -0.4, 1), candidate(4, -0.3, 2)], chance=-0.45).experts == 2
    unforeseen = decide(rows, chance=-0.305)
    assert unforeseen.experts == 2
    assert "none foretell hidden ties better than chance (-0.300 at best against -0.305" in unforeseen.reason


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_groups_are_counted(seed):
    data = planted(seed)
    before = torch.random.get_rng_state()
    fits = []
    choice = choose_experts(data, (2, 4, 6, 8, 16), replace(SETTINGS, seed=seed), on_fit=fits.append)
    assert choice.experts in (6, 8)
    assert len(fits) == 25
    assert torch.equal(before, torch.random.get_rng_state())


def test_ties_without_meaning_call_for_no_more_than_two():
    data = rewire(planted(0), 0)
    assert choose_experts(data, (2, 6, 12), SETTINGS).experts == 2


def test_numbers_to_try():
    assert numbers_to_try(52) == (2, 3, 4, 6, 8, 12, 16, 24)
    assert numbers_to_try(16, least=4) == (4, 6, 8)
    assert len(numbers_to_try(1000)) < len(numbers_to_try(512))
    for topics, least in ((3, 2), (20, 11)):
        with pytest.raises(TopicLoraError, match=f"nothing to try from {least} to {topics // 2}"):
            numbers_to_try(topics, least=least)


def test_too_little_to_hide():
    pair = Data(x=torch.eye(8), edge_index=torch.tensor([[0, 1], [1, 0]]), edge_weight=torch.ones(2))
    with pytest.raises(TopicLoraError, match="too little to hide in a topic graph of 1 ties"):
        choose_experts(pair, (2, 4), SETTINGS)
