"""Hidden edges are found where the graph means something, and only there."""

from dataclasses import replace

import pytest
import torch

from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.validate import _auc, link_report


def test_auc_by_hand():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # Cosines: linked 1 and 0; unlinked 0, 0.71. Wins: 2 of 2, then half of 2.
    assert _auc(z, torch.tensor([[0, 0], [1, 2]]), torch.tensor([[1, 2], [2, 3]])) == pytest.approx(2.5 / 4)


def test_hidden_edges_are_told_apart_unless_the_graph_is_random(bigbench, hashed):
    def report(control):
        return link_report(
            fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=8, control=control, steps=60)), hashed
        )

    learnt, random = report("none"), report("random_graph")
    assert learnt.hidden == 23
    assert learnt.auc > 0.7 > learnt.text_auc
    assert 0.35 < random.auc < 0.65


def test_the_seed_decides_and_the_callers_random_state_is_untouched(small_graph, small):
    features = HashEncoder(64).encode(small.texts)
    before = torch.random.get_rng_state()
    first = link_report(small_graph, features, share=0.3)
    assert first == link_report(small_graph, features, share=0.3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_nothing_to_hide_or_to_compare(small_graph, small):
    features = HashEncoder(64).encode(small.texts)
    one = replace(small_graph, edge_index=torch.tensor([[0, 1], [1, 0]]), edge_weight=torch.ones(2))
    assert link_report(one, features) is None
    everyone = (1 - torch.eye(6)).nonzero().T
    assert link_report(replace(small_graph, edge_index=everyone, edge_weight=torch.ones(30)), features) is None
