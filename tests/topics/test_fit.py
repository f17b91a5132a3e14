"""Stage 1 on the real taxonomy: every expert owns topics, seeds decide, controls take away what they claim to."""

import pytest
import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.evidence import gather_evidence, information
from topiclora_cli.topics.experts import assignment_report, separation_report
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.gnn import TopicEncoder
from topiclora_cli.topics.graph import adjacency
from topiclora_cli.topics.learn import PATIENCE
from topiclora_cli.topics.projector import Prompts, gather_training_pairs
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.taxonomy import Taxonomy, Topic

TENSORS = ("topic_vectors", "expert_vectors", "assignment", "edge_index", "edge_weight", "projector_weight")


def report(graph):
    return assignment_report(graph.assignment, adjacency(graph.edge_index, graph.edge_weight, graph.num_topics))


@pytest.mark.parametrize("num_experts", [2, 4, 8, 16])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_expert_is_dead_on_bigbench(bigbench, hashed, num_experts, seed):
    graph = fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=num_experts, seed=seed))
    found = report(graph)
    assert found.dead == ()
    assert max(found.topics_per_expert) <= 2.2 * 52 / num_experts
    assert found.isolated == ()
    angles = separation_report(graph.expert_vectors)
    assert angles.min_angle > 0.7 * angles.simplex_angle
    assert 0.6 < graph.assignment.amax(1).mean() < 0.995


def test_communities_are_found(small_graph):
    owner = small_graph.assignment.argmax(1).tolist()
    assert owner[:3] == [owner[0]] * 3
    assert owner[3:] == [1 - owner[0]] * 3


def test_learnt_experts_follow_the_graph_better_than_controls_do(bigbench, hashed):
    learnt = fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=8))
    dense = adjacency(learnt.edge_index, learnt.edge_weight, 52)
    scores = {
        control: assignment_report(
            fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=8, control=control)).assignment, dense
        ).modularity
        for control in ("random_graph", "shuffled", "groups", "kmeans")
    }
    ours = assignment_report(learnt.assignment, dense).modularity
    assert ours > 0.35
    assert all(ours > score + 0.1 for score in scores.values()), scores


def test_separation_widens_the_smallest_angle(bigbench, hashed):
    apart, loose = (
        separation_report(
            fit_topic_graph(
                bigbench,
                hashed,
                GraphSettings(num_experts=16, separation=kind, seed=3, loss_weights={"consistency": 0.0}),
            ).expert_vectors
        ).min_angle
        for kind in ("margin", "none")
    )
    assert apart > loose + 20


@pytest.mark.parametrize("kind", ["sage", "gatv2", "none"])
def test_other_gnns(small, kind):
    graph = fit_topic_graph(small, HashEncoder(64), GraphSettings(num_experts=2, gnn=kind, width=16, steps=60))
    assert report(graph).dead == ()
    assert graph.config["gnn"] == kind


def test_message_passing_reaches_neighbours_only_when_there_is_a_gnn():
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    edges, weight = torch.tensor([[0, 1], [1, 0]]), torch.ones(2)
    changed = x.clone()
    changed[1] += 1
    for kind in ("gcn", "sage", "gatv2", "none"):
        encode = TopicEncoder(kind, 6, 8)
        moved = (encode(x, edges, weight) - encode(changed, edges, weight)).abs().amax(1) > 1e-6
        assert moved.tolist() == [kind != "none", True, False, False], kind
        torch.testing.assert_close(encode(x, edges, weight).norm(dim=1), torch.ones(4))


def test_gcn_by_hand():
    torch.manual_seed(0)
    x, edges, weight = torch.randn(3, 6), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), torch.tensor([0.5, 0.5, 0.2, 0.2])
    encode = TopicEncoder("gcn", 6, 8, layers=2)
    looped = torch.eye(3)
    looped[0, 1] = looped[1, 0] = 0.5
    looped[1, 2] = looped[2, 1] = 0.2
    scale = looped.sum(1).rsqrt()
    spread = scale[:, None] * looped * scale[None]
    hidden = x @ encode.project.weight.T
    for conv in encode.convs:
        hidden = hidden + torch.relu(spread @ hidden @ conv.lin.weight.T + conv.bias)
    torch.testing.assert_close(encode(x, edges, weight), hidden / hidden.norm(dim=1, keepdim=True))


def test_gcn_heeds_edge_weights():
    torch.manual_seed(0)
    x, edges = torch.randn(3, 6), torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0]])
    for kind in ("gcn", "gatv2"):
        encode = TopicEncoder(kind, 6, 8)
        one, other = (encode(x, edges, torch.tensor([a, a, b, b])) for a, b in ((1.0, 0.1), (0.1, 1.0)))
        assert not torch.allclose(one[0], other[0])


def test_the_seed_decides(small):
    def fit(seed):
        return fit_topic_graph(small, HashEncoder(64), GraphSettings(num_experts=2, width=16, steps=10, seed=seed))

    first, again, other = fit(5), fit(5), fit(6)
    for name in TENSORS:
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.expert_vectors, other.expert_vectors)
    assert first.sha256 == again.sha256 != other.sha256


def test_the_callers_random_state_is_untouched(small):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    for control in ("none", "random_graph", "shuffled", "kmeans", "spectral", "dmon"):
        fit_topic_graph(small, HashEncoder(64), GraphSettings(num_experts=2, width=8, steps=2, control=control))
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_learns_inside_no_grad_and_reports_every_step(small):
    seen = []
    with torch.no_grad():
        fit_topic_graph(
            small,
            HashEncoder(64),
            GraphSettings(num_experts=2, width=16, steps=40),
            on_step=lambda step, losses: seen.append((step, losses)),
        )
    assert [step for step, _ in seen] == list(range(40))
    assert set(seen[0][1]) == {"link", "modularity", "balance", "separation"}
    assert seen[-1][1]["link"] < seen[0][1]["link"]
    assert seen[-1][1]["modularity"] < seen[0][1]["modularity"]


def test_it_stops_once_nothing_more_is_gained(small):
    seen = []
    fit_topic_graph(
        small,
        HashEncoder(64),
        GraphSettings(num_experts=2, width=16, steps=5000),
        on_step=lambda step, _: seen.append(step),
    )
    assert PATIENCE < len(seen) < 1000


def test_experts_share_the_prompts_and_not_only_the_topics(bigbench, hashed):
    """Prompts about the topics of one group only: experts that share topics alone leave most experts without any."""
    busy = [topic.name for topic in bigbench.topics if topic.group == "logic, math, code"]
    texts = [f"{name} {word}" for name in busy for word in ("one", "two", "three")]
    prompts = Prompts(HashEncoder().encode(texts), [[name] for name in busy for _ in range(3)])
    pairs = gather_training_pairs(bigbench, hashed, prompts=prompts)
    evidence = gather_evidence(pairs)

    def shared_information(weight):
        options = {"num_experts": 4, "loss_weights": {"consistency": weight}}
        graph = fit_topic_graph(bigbench, hashed, GraphSettings(**options), pairs=pairs)
        return information((evidence.topics @ graph.assignment).argmax(1), evidence.kind, 4)

    assert shared_information(2.0) > shared_information(0.0) + 0.2


def test_controls_take_away_what_they_say(bigbench, hashed):
    def fit(control):
        return fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=4, steps=30, control=control))

    plain, shuffled, uniform = fit("none"), fit("shuffled"), fit("uniform")
    assert torch.equal(shuffled.topic_vectors, plain.topic_vectors)
    assert torch.equal(shuffled.expert_vectors, plain.expert_vectors)
    assert not torch.equal(shuffled.assignment, plain.assignment)
    torch.testing.assert_close(
        shuffled.assignment.sort(dim=0).values, plain.assignment.sort(dim=0).values, atol=0, rtol=0
    )
    assert torch.equal(uniform.assignment, torch.full((52, 4), 0.25))
    random = fit("random_graph")
    assert not torch.equal(random.edge_index, plain.edge_index)
    assert random.edge_index.shape == plain.edge_index.shape
    by_group = fit("groups")
    owner = dict(zip(by_group.groups, by_group.assignment.argmax(1).tolist(), strict=True))
    assert [owner[group] for group in by_group.groups] == by_group.assignment.argmax(1).tolist()
    for graph in (shuffled, uniform, random, by_group, fit("kmeans")):
        torch.testing.assert_close(graph.assignment.sum(1), torch.ones(52))
        torch.testing.assert_close(graph.expert_vectors.norm(dim=1), torch.ones(4))
    assert report(fit("kmeans")).dead == ()


def test_as_many_experts_as_topics(small):
    graph = fit_topic_graph(small, HashEncoder(64), GraphSettings(num_experts=6, width=16))
    assert report(graph).dead == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 7}, "7 experts for 6 topics"),
        ({"num_experts": 1}, "nothing to route"),
        ({"control": "magic"}, "Unknown control 'magic'"),
        ({"gnn": "transformer"}, "Unknown GNN"),
        ({"separation": "far"}, "Unknown separation"),
        ({"loss_weights": {"fun": 1.0}}, "Unknown loss 'fun'"),
        ({"assignment_temperature": 0.0}, "cannot be used"),
        ({"control": "groups", "num_experts": 3}, "at least 3 groups"),
    ],
)
def test_bad_settings_are_refused(small, options, message):
    with pytest.raises(TopicLoraError, match=message):
        fit_topic_graph(small, HashEncoder(64), GraphSettings(**{"num_experts": 2, "width": 8, "steps": 1, **options}))


def test_groups_must_cover_every_topic():
    taxonomy = Taxonomy(tuple(Topic(name, name) for name in "abcd"), {str(i): ("a", "b", "c", "d") for i in range(2)})
    taxonomy = Taxonomy(taxonomy.topics, {**taxonomy.tasks, "x": ("a", "b")})
    with pytest.raises(TopicLoraError, match="4 topics have none"):
        fit_topic_graph(
            taxonomy, torch.eye(4), GraphSettings(num_experts=2, width=8, steps=1, control="groups", cosine_floor=-1)
        )
