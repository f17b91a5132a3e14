"""Every loss against a loop or a value worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics import experts as ex


@pytest.fixture
def weight(generator):
    upper = torch.rand(7, 7, generator=generator).triu(1)
    upper = upper * (upper > 0.5)
    return upper + upper.T


@pytest.fixture
def assignment(generator):
    return torch.softmax(torch.randn(7, 3, generator=generator), dim=1)


@pytest.fixture
def z(generator):
    return F.normalize(torch.randn(7, 5, generator=generator), dim=1)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_link_loss_is_a_loop(z, weight):
    pull, push = [], []
    for s in range(7):
        for t in range(7):
            score = float(z[s] @ z[t]) / 0.5
            if s != t and weight[s, t] > 0:
                pull.append(-math.log(sigmoid(score)))
            elif s != t:
                push.append(-math.log(1 - sigmoid(score)))
    wanted = (sum(pull) / len(pull) + 5 * sum(push) / len(push)) / 6
    assert float(ex.link_loss(z=z, weight=weight)) == pytest.approx(wanted, rel=1e-5)


def test_link_loss_on_a_complete_graph_is_finite(z):
    assert torch.isfinite(ex.link_loss(z=z, weight=1 - torch.eye(7)))


def test_modularity_loss_is_a_loop(assignment, weight):
    degree, total = weight.sum(1), weight.sum()
    wanted = 0.0
    for s in range(7):
        for t in range(7):
            wanted -= float((weight[s, t] - degree[s] * degree[t] / total) * (assignment[s] @ assignment[t]) / total)
    assert float(ex.modularity_loss(assignment=assignment, weight=weight)) == pytest.approx(wanted, abs=1e-6)


def test_modularity_of_two_separate_pairs_is_a_half():
    weight = torch.zeros(4, 4)
    weight[0, 1] = weight[1, 0] = weight[2, 3] = weight[3, 2] = 1
    split = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert float(ex.modularity_loss(assignment=split, weight=weight)) == pytest.approx(-0.5)
    assert float(ex.modularity_loss(assignment=split[[0, 2, 1, 3]], weight=weight)) == pytest.approx(0.5)


def test_balance_loss_by_hand():
    even = torch.full((6, 4), 0.25)
    assert float(ex.balance_loss(assignment=even)) == pytest.approx(0, abs=1e-6)
    one = torch.tensor([[1.0, 0, 0, 0]]).expand(6, 4)
    assert float(ex.balance_loss(assignment=one)) == pytest.approx(math.sqrt(4) - 1)


def test_affinity_is_a_loop(assignment, weight):
    found = ex.affinity(assignment=assignment, weight=weight)

    def tie(e, f):
        return sum(float(assignment[s, e] * weight[s, t] * assignment[t, f]) for s in range(7) for t in range(7))

    for e in range(3):
        for f in range(3):
            assert float(found[e, f]) == pytest.approx(min(1, tie(e, f) / math.sqrt(tie(e, e) * tie(f, f))), rel=1e-4)


@pytest.mark.parametrize("kind", ["margin", "orthogonal", "etf", "none"])
def test_separation_losses_are_loops(kind, generator):
    vectors = F.normalize(torch.randn(4, 5, generator=generator), dim=1)
    kappa = torch.rand(4, 4, generator=generator)
    kappa = (kappa + kappa.T) / 2
    total, pairs = 0.0, 0
    for e in range(4):
        for f in range(e + 1, 4):
            cosine = float(vectors[e] @ vectors[f])
            margin = -1 / 3 + (0.3 + 1 / 3) * float(kappa[e, f])
            total += {
                "margin": max(0.0, cosine - margin) ** 2,
                "orthogonal": cosine**2,
                "etf": (cosine + 1 / 3) ** 2,
                "none": 0.0,
            }[kind]
            pairs += 1
    found = ex.separation_loss(vectors=vectors, kind=kind, kappa=kappa)
    assert float(found) == pytest.approx(total / pairs, rel=1e-5)


def test_separation_gives_kappa_no_gradient(generator):
    vectors = F.normalize(torch.randn(3, 4, generator=generator), dim=1).requires_grad_()
    kappa = torch.zeros(3, 3, requires_grad=True)
    ex.separation_loss(vectors=vectors, kappa=kappa).backward()
    assert kappa.grad is None
    assert vectors.grad.abs().sum() > 0


def test_unknown_separation_is_refused():
    with pytest.raises(TopicLoraError, match="apart"):
        ex.separation_loss(vectors=torch.eye(2), kind="apart")


def test_a_simplex_meets_the_bound_and_costs_nothing():
    simplex = F.normalize(torch.eye(4) - 0.25, dim=1)
    report = ex.separation_report(simplex)
    assert report.min_angle == pytest.approx(report.simplex_angle, abs=1e-3)
    assert report.simplex_angle == pytest.approx(math.degrees(math.acos(-1 / 3)))
    assert report.max_cosine == pytest.approx(-1 / 3, abs=1e-6)
    for kind in ("margin", "etf"):
        assert float(ex.separation_loss(vectors=simplex, kind=kind)) == pytest.approx(0, abs=1e-12)


def test_assignment_report_counts_owners_and_the_lonely():
    assignment = torch.tensor([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.9, 0]])
    weight = torch.zeros(3, 3)
    weight[0, 1] = weight[1, 0] = 1
    report = ex.assignment_report(assignment, weight)
    assert report.topics_per_expert == (2, 1, 0)
    assert report.dead == (2,)
    assert report.isolated == (2,)
    assert report.modularity == pytest.approx(0)
    assert ex.assignment_report(torch.full((3, 3), 1 / 3), weight).entropy == pytest.approx(1)
    assert ex.assignment_report(torch.eye(3), weight).entropy == pytest.approx(0)


def test_head_is_a_softmax_of_cosines(z):
    torch.manual_seed(0)
    head = ex.ExpertHead(z, 3, temperature=0.2)
    found = head(z)
    for t in range(7):
        powers = [math.exp(float(z[t] @ head.vectors[e].detach()) / 0.2) for e in range(3)]
        for e in range(3):
            assert float(found[t, e].detach()) == pytest.approx(powers[e] / sum(powers), rel=1e-4)
    torch.testing.assert_close(head.vectors.norm(dim=1), torch.ones(3))


def test_seeds_are_different_topics_even_among_duplicates():
    torch.manual_seed(0)
    assert len(set(ex.spread_seeds(torch.ones(5, 3), 5))) == 5
    with pytest.raises(TopicLoraError, match="6 experts for 5 topics"):
        ex.spread_seeds(torch.ones(5, 3), 6)


def test_seeds_reach_every_cluster():
    cloud = torch.eye(3).repeat_interleave(10, 0)
    torch.manual_seed(0)
    for _ in range(20):
        assert {index // 10 for index in ex.spread_seeds(cloud, 3)} == {0, 1, 2}
