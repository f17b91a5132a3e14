"""Controls that group the graph recover planted blocks; DMoN's losses are those of torch_geometric."""

from typing import get_args

import pytest
import torch
from torch_geometric.nn.dense import DMoNPooling

from topiclora_cli.recipe.schema import GraphSection
from topiclora_cli.topics import controls, experts
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.settings import CONTROLS, GraphSettings
from topiclora_cli.topics.taxonomy import Taxonomy, Topic

BLOCK, BLOCKS = 8, 3


def same_blocks(owner):
    """Whether every planted block has one owner, and no two blocks the same."""
    owners = [set(block.tolist()) for block in owner.split(BLOCK)]
    return all(len(found) == 1 for found in owners) and len(set.union(*owners)) == BLOCKS


def planted(generator, *, inside=0.7, across=0.08):
    """Weights (T, T) of a planted-partition graph."""
    block = torch.arange(BLOCK * BLOCKS) // BLOCK
    chance = torch.where(block[:, None] == block[None], inside, across)
    upper = torch.rand(chance.shape, generator=generator).lt(chance).float().triu(1)
    weight = upper * (0.2 + 0.8 * torch.rand(chance.shape, generator=generator))
    return weight + weight.T


@pytest.mark.parametrize("seed", range(5))
def test_spectral_recovers_planted_blocks(generator, seed):
    torch.manual_seed(seed)
    assert same_blocks(controls.spectral_labels(planted(generator), BLOCKS))


def test_spectral_stands_a_topic_without_ties(generator):
    weight = planted(generator)
    weight[0], weight[:, 0] = 0, 0
    labels = controls.spectral_labels(weight, BLOCKS)
    assert set(labels.tolist()) == set(range(BLOCKS))


def test_spectral_leaves_no_expert_without_a_topic_where_points_are_fewer(recwarn):
    weight = torch.zeros(6, 6)
    weight[0, 1] = weight[1, 0] = 1
    assert set(controls.spectral_labels(weight, 5).tolist()) == set(range(5))
    assert not recwarn.list


def test_the_seed_decides_spectral_clusters(generator):
    weight = planted(generator, inside=0.3, across=0.2)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(controls.spectral_labels(weight, 5))
    assert torch.equal(*found)


@pytest.mark.parametrize("control", ["spectral", "dmon"])
def test_experts_are_the_planted_blocks(generator, control):
    count = BLOCK * BLOCKS
    topics = tuple(Topic(f"t{i}", f"topic {i}") for i in range(count))
    tied = (planted(generator) > 0).triu(1).nonzero().tolist()
    taxonomy = Taxonomy(topics, {f"{s}-{t}": (f"t{s}", f"t{t}") for s, t in tied})
    noise = torch.randn(count, 32, generator=generator)  # texts say nothing, the tags all
    graph = fit_topic_graph(
        taxonomy, noise, GraphSettings(num_experts=BLOCKS, control=control, width=32, npmi_weight=1.0)
    )
    assert same_blocks(graph.assignment.argmax(1))
    separates = graph.config["loss_weights"]["link"] > 0 and graph.config["loss_weights"]["separation"] > 0
    assert separates == (control == "spectral")


def test_modularity_and_balance_are_dmons(generator):
    weight, x = planted(generator), torch.randn(BLOCK * BLOCKS, 5, generator=generator)
    assignment, _, _, spectral, _, collapse = DMoNPooling(5, 4)(x, weight)
    torch.testing.assert_close(experts.modularity_loss(assignment=assignment[0], weight=weight), spectral)
    torch.testing.assert_close(experts.balance_loss(assignment=assignment[0]), collapse)


def test_a_recipe_can_name_every_control():
    assert get_args(GraphSection.model_fields["control"].annotation) == CONTROLS
