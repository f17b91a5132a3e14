"""The comparison with controls says what separate fits would say, and measures stability as anybody would."""

from dataclasses import replace

import pytest
import torch

from topiclora_cli.topics.compare import adjusted_rand, compare, fits_to_compare, seeds_to_compare
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.evidence import gather_evidence, information
from topiclora_cli.topics.experts import assignment_report, separation_report
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.graph import adjacency
from topiclora_cli.topics.projector import Prompts, gather_training_pairs
from topiclora_cli.topics.settings import CONTROLS, GraphSettings
from topiclora_cli.topics.taxonomy import Taxonomy

SETTINGS = {"num_experts": 2, "width": 16, "steps": 15}


@pytest.fixture(scope="module")
def features(small):
    return HashEncoder(64).encode(small.texts)


@pytest.fixture(scope="module")
def pairs(small, features):
    tags = [["sums", "algebra"], ["proofs"], ["poems"], ["jokes"], ["stories"]] * 2
    prompts = Prompts(HashEncoder(64).encode([f"{' '.join(names)} {i}" for i, names in enumerate(tags)]), tags)
    return gather_training_pairs(small, features, prompts=prompts)


@pytest.fixture(scope="module", params=["none", "kmeans", "dmon", "random_graph"])
def compared(request, small, features, pairs):
    """A graph under some control, and its comparison."""
    graph = fit_topic_graph(small, features, GraphSettings(control=request.param, seed=4, **SETTINGS), pairs=pairs)
    return graph, compare(graph, small, features, evidence=gather_evidence(pairs), seeds=2)


def test_every_number_is_that_of_a_fit_of_its_own(compared, small, features, pairs):
    graph, comparison = compared
    true = fit_topic_graph(small, features, GraphSettings(**SETTINGS), pairs=pairs)
    weight = adjacency(true.edge_index, true.edge_weight, true.num_topics)
    evidence = gather_evidence(pairs)
    assert comparison.seeds == (4, 5)
    names = [(row.gnn, row.control) for row in comparison.contenders]
    assert names == [("gcn", "none"), ("none", "none"), *(("gcn", name) for name in CONTROLS[1:])]
    assert [row.control for row in comparison.contenders if row.own] == [graph.config["control"]]
    for row in comparison.contenders:
        options = {"gnn": row.gnn, "control": row.control, **SETTINGS}
        alone = [fit_topic_graph(small, features, GraphSettings(seed=seed, **options), pairs=pairs) for seed in (4, 5)]
        found = [assignment_report(one.assignment, weight) for one in alone]
        experts = [(evidence.topics @ one.assignment).argmax(1) for one in alone]
        for spread, values in (
            (row.information, [information(chosen, evidence.kind, 2) for chosen in experts]),
            (row.modularity, [report.modularity for report in found]),
            (row.entropy, [report.entropy for report in found]),
            (row.min_angle, [separation_report(one.expert_vectors).min_angle for one in alone]),
        ):
            assert (spread.low, spread.high) == pytest.approx((min(values), max(values)), abs=1e-5), row
            assert spread.mean == pytest.approx(sum(values) / 2, abs=1e-5)
        stability = adjusted_rand([one.assignment.argmax(1).tolist() for one in alone])
        assert row.stability == stability


def test_the_callers_random_state_stays_and_every_fit_is_told(small, features):
    graph, done = fit_topic_graph(small, features, GraphSettings(**SETTINGS)), []
    before = torch.random.get_rng_state()
    compare(graph, small, features, seeds=2, on_fit=done.append)
    assert torch.equal(before, torch.random.get_rng_state())
    assert sum(done) == fits_to_compare(graph, 2) == 8


def test_groups_are_left_out_where_there_are_none_and_no_gnn_is_not_fitted_twice(small, features):
    bare = Taxonomy(tuple(replace(topic, group="") for topic in small.topics), small.tasks)
    graph = fit_topic_graph(bare, features, GraphSettings(gnn="none", **SETTINGS))
    rows = compare(graph, bare, features, seeds=1).contenders
    assert [row.control for row in rows] == [name for name in CONTROLS if name != "groups"]
    assert all(row.stability is None for row in rows)


def test_adjusted_rand_by_hand():
    # Of 15 pairs the first keeps 4 together, the second 3, both 1.
    found = adjusted_rand([[0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]])
    pairs, chance, most = 1, 4 * 3 / 15, (4 + 3) / 2
    assert found.mean == pytest.approx((pairs - chance) / (most - chance))
    assert adjusted_rand([[0, 1, 1], [5, 2, 2]]).mean == 1  # names of the parts do not matter
    assert adjusted_rand([[0, 1, 1]]) is None
    assert adjusted_rand([[0, 0, 0], [1, 1, 1]]) is None


def test_many_topics_are_compared_on_request_only():
    assert [seeds_to_compare(None, 52), seeds_to_compare(None, 501), seeds_to_compare(2, 501)] == [3, 0, 2]
    assert seeds_to_compare(0, 52) == 0
