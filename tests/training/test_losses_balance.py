"""Balance over a batch: even use is the minimum, one expert for all the maximum, loops give the same numbers."""

import math

import pytest
import torch

from topiclora_cli.training.losses import local_balance, normal_profile, sample_types, switch_balance

MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])  # samples of equal length, a pad each


def gates(experts=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, experts, generator=generator, dtype=torch.float64).softmax(-1)


def test_switch_is_one_when_even_and_experts_when_collapsed():
    mask = torch.tensor([[1.0, 1, 1, 1, 0]])
    even = torch.eye(4)[None] * 50
    padded = torch.cat([even, torch.full((1, 1, 4), 9.0)], 1)
    assert switch_balance(padded, padded.softmax(-1) * (padded > 0), mask=mask).item() == pytest.approx(1, rel=1e-4)
    collapsed = torch.tensor([50.0, 0, 0, 0]).expand(1, 5, 4)
    assert switch_balance(collapsed, (collapsed > 0).float(), mask=mask).item() == pytest.approx(4, rel=1e-4)


def test_switch_over_experts_that_pass_a_threshold_is_a_loop():
    logits = gates().log()
    p, threshold = logits.softmax(-1), 0.2
    excess = (p - threshold).clamp_min(0)
    share, probability, tokens = [0.0] * 4, [0.0] * 4, 0
    for b in range(2):
        for s in range(4):
            if MASK[b, s]:
                active = [e for e in range(4) if p[b, s, e] > threshold]
                tokens += 1
                for e in range(4):
                    share[e] += (e in active) / max(1, len(active))
                    probability[e] += p[b, s, e].item()
    expected = 4 * sum(f * q for f, q in zip(share, probability, strict=True)) / tokens**2
    assert len({(excess[b, s] > 0).sum().item() for b in range(2) for s in range(4)}) > 1
    assert switch_balance(logits, excess, mask=MASK).item() == pytest.approx(expected, rel=1e-12)


def test_switch_with_a_token_that_no_expert_serves():
    idle = torch.zeros(2, 4, 4)
    assert switch_balance(idle, idle, mask=MASK).item() == 0


def test_local_balance_is_zero_when_even_and_counts_experts_when_collapsed():
    assert local_balance(torch.full((2, 4, 4), 0.25), mask=MASK).item() == pytest.approx(0, abs=1e-12)
    collapsed = torch.eye(4)[0].expand(2, 4, 4)
    assert local_balance(collapsed, mask=MASK).item() == pytest.approx(3)


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
    assert local_balance(gates(), mask=mask, types=types, delta=delta).item() == pytest.approx(expected, rel=1e-12)
    plain = local_balance(gates(), mask=mask)
    torch.testing.assert_close(local_balance(gates(), mask=mask, types=types, delta=0.0), plain)


@pytest.mark.parametrize(("delta", "own"), [(0.5, 0.25), (-0.5, 0.75)])
def test_local_balance_is_zero_where_gates_go_as_one_over_the_coefficients(delta, own):
    types = torch.tensor([True, False])
    first, second = torch.tensor([own / 2] * 2), torch.tensor([(1 - own) / 2] * 2)
    routing = torch.stack([torch.cat([second, first]), torch.cat([first, second])]).unsqueeze(1).expand(2, 4, 4)
    assert local_balance(routing, mask=MASK, types=types, delta=delta).item() == pytest.approx(0, abs=1e-12)
    assert local_balance(routing, mask=MASK, types=~types, delta=delta).item() > 0.1


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
        assert normal_profile(order.expand(2, 4, 5), mask=MASK, width=0.2).item() == pytest.approx(0, abs=1e-6)


def test_normal_profile_by_hand():
    profile = bell(4, 0.5)
    even = torch.full((2, 4, 4), 0.25)
    expected = sum(p * math.log(p / 0.25) for p in profile.tolist())
    assert normal_profile(even, mask=MASK).item() == pytest.approx(expected, rel=1e-4)
    assert normal_profile(even * 0.3, mask=MASK).item() == pytest.approx(expected, rel=1e-4)  # only shares count
    collapsed = torch.eye(4)[0].expand(2, 4, 4)
    assert normal_profile(collapsed, mask=MASK).item() > 10
