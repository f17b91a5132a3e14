"""Losses on experts and keys: closed forms, loops, and no explosion at a fresh adapter's zeros."""

import math

import pytest
import torch
import torch.nn.functional as F

from topiclora_cli.training.losses import (
    centre_alignment,
    expert_contrast,
    key_anchor,
    orthogonality,
    output_products,
)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def contrast(outputs, selected, **options):
    """Of one example's outputs (N, E, d)."""
    flat = outputs.flatten(0, 1)
    return expert_contrast((flat @ flat.T)[None], selected=selected[None], **options)[0]


def test_products_are_those_of_every_expert_s_outputs():
    rows, lora_b = random(2, 3, 5), random(4, 2, 6)
    for lora_a in (random(4, 2, 5), random(1, 2, 5)):
        hidden = torch.einsum("bnd,erd->bner", rows, lora_a.expand(4, -1, -1))
        outputs = torch.einsum("bner,ero->bneo", hidden, lora_b).flatten(1, 2)
        torch.testing.assert_close(output_products(rows, lora_a, lora_b), outputs @ outputs.mT)


def test_each_example_has_a_contrast_of_its_own():
    outputs, selected = random(2, 4, 3, 5), torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    flat = outputs.flatten(1, 2)
    together = expert_contrast(flat @ flat.mT, selected=selected)
    torch.testing.assert_close(together, torch.stack([contrast(o, s) for o, s in zip(outputs, selected, strict=True)]))


def everything(outputs):
    return torch.ones(outputs.shape[:2], dtype=torch.bool)


def test_key_anchor():
    assert key_anchor([torch.ones(2, 2), torch.zeros(2, 2)], [torch.zeros(2, 2), torch.zeros(2, 2)]).item() == 2


def test_contrast_of_experts_that_are_one_and_of_experts_that_are_apart():
    alike = torch.ones(3, 4, 5)
    assert contrast(alike, everything(alike)).item() == pytest.approx(math.log(1 + 9))
    apart = torch.eye(4).expand(3, 4, 4) * torch.tensor([1.0, 2, 3]).view(3, 1, 1)  # length does not matter
    value = contrast(apart, everything(apart), temperature=0.5).item()
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
    assert contrast(outputs, selected, temperature=temperature).item() == pytest.approx(expected)


def test_contrast_pulls_an_expert_s_outputs_together_and_away_from_the_others():
    outputs = random(6, 3, 8).requires_grad_()
    before = contrast(outputs, everything(outputs))
    before.backward()
    after = contrast(outputs - 0.05 * outputs.grad, everything(outputs))
    assert after < before
    outputs.grad = None
    selected = everything(outputs)
    selected[2, 1] = False
    contrast(outputs, selected).backward()
    assert outputs.grad[2, 1].abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 4, 5), (4, 1, 5), (1, 1, 5)])
def test_contrast_without_pairs_or_without_others(shape):
    outputs = random(*shape).requires_grad_()
    value = contrast(outputs, everything(outputs))
    value.backward()
    assert value.item() == 0
    assert outputs.grad.abs().max() == 0


def test_contrast_leaves_experts_alone_that_say_nothing():
    outputs = random(4, 3, 5)
    outputs[:, 1] = 0
    outputs.requires_grad_()
    contrast(outputs, everything(outputs)).backward()
    assert outputs.grad.isfinite().all()
    assert outputs.grad[:, 1].abs().max() == 0
    assert outputs.grad[:, 0].abs().max() > 0


def test_orthogonality_is_zero_for_orthonormal_ranks():
    rows = torch.linalg.qr(random(3, 8, 2))[0].mT
    assert orthogonality(rows[:1], rows).item() == pytest.approx(0, abs=1e-20)
    assert orthogonality(2 * rows[:1], rows).item() == pytest.approx(2 * 9 / 4)  # (4 I - I)^2 in two of four places


@pytest.mark.parametrize("shared", [True, False])
def test_orthogonality_is_a_loop(shared):
    lora_a, lora_b = random(1 if shared else 3, 2, 5), random(3, 2, 4)
    expected = sum((a @ a.T - torch.eye(2)).square().mean() for a in lora_a) / len(lora_a)
    expected = expected + sum((b @ b.T - torch.eye(2)).square().mean() for b in lora_b) / len(lora_b)
    torch.testing.assert_close(orthogonality(lora_a, lora_b), expected)


def test_fresh_b_costs_one_over_its_rank():
    rows = torch.linalg.qr(random(1, 8, 2))[0].mT
    assert orthogonality(rows, torch.zeros(3, 2, 4)).item() == pytest.approx(1 / 2)


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
