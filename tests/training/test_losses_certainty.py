"""How one token is split: closed forms at the extremes, loops and definitions in between."""

import math

import pytest
import torch

from tests.training.helpers import over_tokens
from topiclora_cli.training.losses import (
    distribution_and_entropy,
    generalised_js,
    poisson_profile,
    sparsity,
    z_loss,
)

MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])
ONE_EXPERT = 50 * torch.eye(4)[0].expand(2, 3, 4)
EVEN = torch.zeros(2, 3, 4)


def gjs(logits, mask, balance=0.98, certainty=0.5):
    means = over_tokens(distribution_and_entropy(logits, certainty=certainty), mask)
    return generalised_js(means, balance=balance, certainty=certainty)


def random_logits(experts=4):
    return 2 * torch.randn(2, 3, experts, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_z_loss_is_the_squared_log_of_the_partition_sum():
    assert over_tokens(z_loss(EVEN), MASK).item() == pytest.approx(math.log(4) ** 2)
    assert over_tokens(z_loss(EVEN - math.log(4)), MASK).item() == pytest.approx(0, abs=1e-12)
    assert over_tokens(z_loss(ONE_EXPERT), MASK).item() == pytest.approx(2500)


def test_gjs_at_its_extremes():
    assert gjs(EVEN, MASK).item() == pytest.approx(1 - 0.5)
    assert gjs(ONE_EXPERT, MASK).item() == pytest.approx(0.98)
    sure = 50 * torch.eye(4).view(2, 2, 4)
    mask = torch.ones(2, 2)
    assert gjs(sure, mask).item() == pytest.approx(0, abs=1e-6)
    assert gjs(sure, mask, balance=1.0, certainty=0.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("balance", "certainty"), [(0.98, 0.5), (0.9, 0.2), (1.0, 0.0)])
def test_gjs_is_a_loop(balance, certainty):
    p, limit = random_logits().softmax(-1), math.log(4)

    def entropy(q):
        return -sum(x * math.log(x) for x in q)

    tokens = [p[b, s].tolist() for b in range(2) for s in range(3) if MASK[b, s]]
    mean = [sum(q[e] for q in tokens) / len(tokens) for e in range(4)]
    of_mean = min(entropy(mean), balance * limit)
    of_tokens = sum(max(entropy(q), certainty * limit) for q in tokens) / len(tokens)
    expected = max(0.0, (balance - certainty) * limit - (of_mean - of_tokens)) / limit
    assert expected > 0.05
    value = gjs(random_logits(), MASK, balance=balance, certainty=certainty)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def poisson(experts, rate):
    masses = [rate**n / math.factorial(n) for n in range(1, experts + 1)]
    return [mass / sum(masses) for mass in masses]


def test_poisson_profile_is_zero_at_the_profile_in_any_order():
    logits = torch.tensor(poisson(4, 1.5)).log()
    for order in (logits, logits.flip(0), logits.roll(1)):
        assert over_tokens(poisson_profile(order.expand(2, 3, 4)), MASK).item() == pytest.approx(0, abs=1e-6)


def test_poisson_profile_of_an_even_router():
    expected = sum(p * math.log(4 * p) for p in poisson(4, 1.2))
    assert over_tokens(poisson_profile(EVEN, rate=1.2), MASK).item() == pytest.approx(expected, rel=1e-5)


def test_poisson_profile_of_many_experts():
    assert poisson_profile(torch.zeros(1, 2, 256)).isfinite().all()


def test_sparsity_at_its_extremes():
    assert over_tokens(sparsity(EVEN.softmax(-1), target=2), MASK).item() == pytest.approx(1)
    assert over_tokens(sparsity(torch.tensor([0.7, 0, 0.3, 0]).expand(2, 3, 4), target=2), MASK).item() == 0
    assert over_tokens(sparsity(EVEN.softmax(-1), target=4), MASK).item() == 0
    gates = torch.tensor([0.4, 0.1, 0.3, 0.2]).expand(2, 3, 4)
    assert over_tokens(sparsity(gates, target=2), MASK).item() == pytest.approx(0.2 + 0.1 + 2 * 0.2)


def sparsegen(scores, sharpness):
    """max(0, u - tau) / sharpness with the tau that makes it sum to one, found by bisection."""
    low, high = scores.min() - sharpness, scores.max()
    for _ in range(100):
        tau = (low + high) / 2
        low, high = (tau, high) if (scores - tau).clamp_min(0).sum() > sharpness else (low, tau)
    return (scores - high).clamp_min(0) / sharpness


@pytest.mark.parametrize("target", [1, 2, 3])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_sparsity_is_the_paper_s_for_gates_of_sparsegen(target, sharpness):
    tokens = [(b, s) for b in range(2) for s in range(3) if MASK[b, s]]
    gates, paper = torch.zeros(2, 3, 5, dtype=torch.float64), []
    for b, s in tokens:
        scores = random_logits(5)[b, s]
        gates[b, s] = sparsegen(scores, sharpness)
        ordered = scores.sort(descending=True).values
        least_lambda = 1 - (ordered[:target].sum() - target * ordered[target])
        paper.append(max(0.0, least_lambda.item() - (1 - sharpness)))
    value = over_tokens(sparsity(gates, target=target), MASK).item()
    assert value * sharpness == pytest.approx(sum(paper) / len(paper), abs=1e-9)
