"""Losses on experts and keys: closed forms, loops, and no explosion at a fresh adapter's zeros."""

import math

import pytest
import torch
import torch.nn.functional as F

from topiclora_cli.training.losses import centre_alignment, expert_contrast, key_anchor, orthogonality


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def everything(outputs):
    return torch.ones(outputs.shape[:2], dtype=torch.bool)


def test_key_anchor():
    assert key_anchor([torch.ones(2, 2), torch.zeros(2, 2)], [torch.zeros(2, 2), torch.zeros(2, 2)]).item() == 2


def test_contrast_of_experts_that_are_one_and_of_experts_that_are_apart():
    alike = torch.ones(3, 4, 5)
    assert expert_contrast(alike, selected=everything(alike)).item() == pytest.approx(math.log(1 + 9))
    apart = torch.eye(4).expand(3, 4, 4) * torch.tensor([1.0, 2, 3]).view(3, 1, 1)  # length does not matter
    value = expert_contrast(apart, selected=everything(apart), temperature=0.5).item()
    assert value == pytest.approx(math.log(1 + 9 * math.exp(-2)), rel=1e-5)


def test_contrast_is_a_loop():
    outputs, temperature = random(4, 3, 5), 0.3
    selected = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    taken = [(e, F.normalize(outputs[n, e], dim=0)) for n in range(4) for e in range(3) if selected[n, e]]
    values = []
    for i, (expert, anchor) in enumerate(taken):
        others = sum(math.exp(anchor @ v / temperature) for e, v in taken if e != expert)
        for j, (other, vector) in enumerate(taken):
            if i != j and other == expert:
                own = math.exp(anchor @ vector / temperature)
                values.append(-math.log(own / (own + others)))
    expected = sum(values) / len(values)
    assert expert_contrast(outputs, selected=selected, temperature=temperature).item() == pytest.approx(expected)


def test_contrast_pulls_an_expert_s_outputs_together_and_away_from_the_others():
    outputs = random(6, 3, 8).requires_grad_()
    before = expert_contrast(outputs, selected=everything(outputs))
    before.backward()
    after = expert_contrast(outputs - 0.05 * outputs.grad, selected=everything(outputs))
    assert after < before
    outputs.grad = None
    selected = everything(outputs)
    selected[2, 1] = False
    expert_contrast(outputs, selected=selected).backward()
    assert outputs.grad[2, 1].abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 4, 5), (4, 1, 5), (1, 1, 5)])
def test_contrast_without_pairs_or_without_others(shape):
    outputs = random(*shape).requires_grad_()
    value = expert_contrast(outputs, selected=everything(outputs))
    value.backward()
    assert value.item() == 0
    assert outputs.grad.abs().max() == 0


def test_contrast_leaves_experts_alone_that_say_nothing():
    outputs = random(4, 3, 5)
    outputs[:, 1] = 0
    outputs.requires_grad_()
    expert_contrast(outputs, selected=everything(outputs)).backward()
    assert outputs.grad.isfinite().all()
    assert outputs.grad[:, 1].abs().max() == 0
    assert outputs.grad[:, 0].abs().max() > 0


def test_orthogonality_is_zero_for_orthonormal_ranks():
    rows = torch.linalg.qr(random(3, 8, 2))[0].mT
    assert orthogonality(rows[:1], rows).item() == pytest.approx(0, abs=1e-20)
    assert orthogonality(2 * rows[:1], rows).item() == pytest.approx(2 * 9)  # ||4 I - I||^2 in two ranks


@pytest.mark.parametrize("shared", [True, False])
def test_orthogonality_is_a_loop(shared):
    lora_a, lora_b = random(1 if shared else 3, 2, 5), random(3, 2, 4)
    expected = sum((a @ a.T - torch.eye(2)).square().sum() for a in lora_a)
    expected = expected + sum((b @ b.T - torch.eye(2)).square().sum() for b in lora_b)
    torch.testing.assert_close(orthogonality(lora_a, lora_b), expected)


def test_fresh_b_costs_its_rank_per_expert():
    rows = torch.linalg.qr(random(1, 8, 2))[0].mT
    assert orthogonality(rows, torch.zeros(3, 2, 4)).item() == pytest.approx(6)


def test_centres_in_their_keys_cost_nothing():
    lora_b = random(3, 2, 4)
    assert centre_alignment(5 * lora_b.mean(-1), lora_b).item() == pytest.approx(0, abs=1e-12)


def test_centre_alignment_is_a_loop():
    keys, lora_b = random(3, 2), random(3, 2, 4).flip(0)
    total = 0.0
    for key, b in zip(keys, lora_b, strict=True):
        p = (b.mean(-1) / b.mean(-1).norm()).softmax(0)
        q = (key / key.norm()).softmax(0)
        total += (p * (p / q).log()).sum().item()
    assert centre_alignment(keys, lora_b).item() == pytest.approx(total / 3, rel=1e-10)


def test_a_fresh_b_gets_no_gradient_from_its_centre_while_the_keys_do():
    keys, lora_b = random(3, 2).requires_grad_(), torch.zeros(3, 2, 4, requires_grad=True)
    centre_alignment(keys, lora_b).backward()
    assert lora_b.grad.abs().max() == 0
    assert 0 < keys.grad.abs().max() < 1
