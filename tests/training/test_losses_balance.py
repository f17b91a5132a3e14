"""Balance over a batch: even use is the minimum, one expert for all the maximum, loops give the same numbers."""

import math

import pytest
import torch

from tests.training.helpers import over_examples, over_tokens
from topiclora_cli.training.losses import (
    expert_activity,
    importance,
    local_balance,
    normal_profile,
    sample_types,
    switch_balance,
)

MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])  # samples of equal length, a pad each


def balance(gates, scores, mask, **options):
    return switch_balance(over_tokens(expert_activity(gates, scores), mask), **options)


def local(gates, mask, **options):
    return local_balance(over_examples(importance(gates, mask=mask, **options)))


def normal(gates, mask, **options):
    return normal_profile(over_tokens(gates, mask), **options)


def gates(experts=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, experts, generator=generator, dtype=torch.float64).softmax(-1)


def test_switch_is_one_when_even_and_experts_when_collapsed():
    mask = torch.tensor([[1.0, 1, 1, 1, 0]])
    even = torch.cat([torch.eye(4)[None] * 50, torch.full((1, 1, 4), 9.0)], 1)
    assert balance(even.softmax(-1) * (even > 0), even.softmax(-1), mask).item() == pytest.approx(1, rel=1e-4)
    collapsed = torch.tensor([50.0, 0, 0, 0]).expand(1, 5, 4)
    assert balance(collapsed, collapsed.softmax(-1), mask).item() == pytest.approx(4, rel=1e-4)


def test_counted_by_tokens_an_even_router_s_balance_is_the_number_of_active_experts():
    even = torch.full((2, 4, 4), 0.25)
    for active in (1, 2, 4):
        pairs = torch.eye(4)[:, :].repeat(1, 1)
        shifted = sum(pairs.roll(step, 1) for step in range(active)).expand(2, 4, 4)  # each expert equally often
        mask = torch.ones(2, 4)
        assert balance(shifted, even, mask, counts="tokens").item() == pytest.approx(active)
        assert balance(shifted, even, mask).item() == pytest.approx(1)


@pytest.mark.parametrize("counts", ["slots", "tokens"])
def test_switch_over_experts_that_pass_a_threshold_is_a_loop(counts):
    p, threshold = gates(), 0.2
    excess = (p - threshold).clamp_min(0)
    load, score, tokens = [0.0] * 4, [0.0] * 4, 0
    for b in range(2):
        for s in range(4):
            if MASK[b, s]:
                tokens += 1
                for e in range(4):
                    load[e] += p[b, s, e].item() > threshold
                    score[e] += p[b, s, e].item()
    out_of = sum(load) if counts == "slots" else tokens
    expected = 4 * sum(f * q for f, q in zip(load, score, strict=True)) / (out_of * tokens)
    assert len({(excess[b, s] > 0).sum().item() for b in range(2) for s in range(4)}) > 1
    assert balance(excess, p, MASK, counts=counts).item() == pytest.approx(expected, rel=1e-12)


def test_switch_with_tokens_that_no_expert_serves():
    idle = torch.zeros(2, 4, 4)
    assert balance(idle, idle, MASK).item() == 0


def test_local_balance_is_zero_when_even_and_counts_experts_when_collapsed():
    assert local(torch.full((2, 4, 4), 0.25), MASK).item() == pytest.approx(0, abs=1e-6)
    collapsed = torch.eye(4)[0].expand(2, 4, 4)
    assert local(collapsed, MASK).item() == pytest.approx(3)


def test_local_balance_is_a_loop():
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    types, delta = torch.tensor([True, False]), 0.3
    weighted = []
    for sample in range(2):
        for expert in range(4):
            importance = sum(gates()[sample, s, expert].item() for s in range(4) if mask[sample, s])
            same = (expert >= 2) == types[sample].item()
            weighted.append(importance * (1 + delta if same else 1 - delta))
    mean = sum(weighted) / len(weighted)
    expected = sum((value - mean) ** 2 for value in weighted) / len(weighted) / mean**2
    assert local(gates(), mask, types=types, delta=delta).item() == pytest.approx(expected, rel=1e-12)
    plain = local(gates(), mask)
    torch.testing.assert_close(local(gates(), mask, types=types, delta=0.0), plain)


@pytest.mark.parametrize(("delta", "own"), [(0.5, 0.25), (-0.5, 0.75)])
def test_local_balance_is_zero_where_gates_go_as_one_over_the_coefficients(delta, own):
    types = torch.tensor([True, False])
    first, second = torch.tensor([own / 2] * 2), torch.tensor([(1 - own) / 2] * 2)
    routing = torch.stack([torch.cat([second, first]), torch.cat([first, second])]).unsqueeze(1).expand(2, 4, 4)
    assert local(routing, MASK, types=types, delta=delta).item() == pytest.approx(0, abs=1e-6)
    assert local(routing, MASK, types=~types, delta=delta).item() > 0.1


def test_types_are_the_halves_with_more_of_the_prior():
    prior = torch.tensor([[0.4, 0.2, 0.1, 0.3], [0.4, 0.05, 0.25, 0.3], [0.25, 0.25, 0.25, 0.25]])
    assert sample_types(prior).tolist() == [False, True, False]
    assert sample_types(torch.tensor([[0.1, 0.3, 0.6]])).tolist() == [True]  # of three, two are the first half
    assert sample_types(torch.ones(1, 1)).tolist() == [False]


def bell(experts, width):
    heights = [math.exp(-0.5 * ((e - experts / 2) / (width * experts)) ** 2) for e in range(experts)]
    return torch.tensor([height / sum(heights) for height in heights])


def test_normal_profile_is_zero_at_the_bell_in_any_order():
    profile = bell(5, 0.2)
    for order in (profile, profile.flip(0), profile.roll(2)):
        assert normal(order.expand(2, 4, 5), MASK, width=0.2).item() == pytest.approx(0, abs=1e-6)


def test_normal_profile_by_hand():
    profile = bell(4, 0.5)
    even = torch.full((2, 4, 4), 0.25)
    expected = sum(p * math.log(p / 0.25) for p in profile.tolist())
    assert normal(even, MASK).item() == pytest.approx(expected, rel=1e-4)
    assert normal(even * 0.3, MASK).item() == pytest.approx(expected, rel=1e-4)  # only shares count
    collapsed = torch.eye(4)[0].expand(2, 4, 4)
    assert normal(collapsed, MASK).item() > 10
