"""The three matmuls against a plain loop over experts, in float64 to 1e-10, outputs and every gradient."""

import pytest
import torch

from topiclora_cli.adapters.mixture import collapse, gated_sum, rank_space
from topiclora_cli.adapters.selection import select_experts

E, R, D_IN, D_OUT = 5, 3, 7, 6


def loop(x, gates, lora_a, lora_b):
    total = 0
    for expert in range(lora_b.shape[0]):
        a = lora_a[expert if lora_a.shape[0] > 1 else 0]
        total = total + gates[..., expert, None] * (x @ a.T @ lora_b[expert])
    return total


def mixture_delta(x, gates, lora_a, lora_b):
    return gated_sum(rank_space(x, lora_a), gates, lora_b)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("top_k", [None, 1, 2, E])
def test_equals_a_loop_over_experts(shared, top_k):
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, logits = leaf(2, 4, D_IN), leaf(2, 4, E)
    lora_a, lora_b = leaf(1 if shared else E, R, D_IN), leaf(E, R, D_OUT)
    weight = torch.randn(2, 4, D_OUT, generator=generator, dtype=torch.float64)
    results = []
    for function in (mixture_delta, loop):
        output = function(x, select_experts(logits, top_k=top_k), lora_a, lora_b)
        results.append((output, *torch.autograd.grad((output * weight).sum(), (x, logits, lora_a, lora_b))))
    for ours, naive in zip(*results, strict=True):
        assert (ours - naive).abs().max() < 1e-10


def test_top_k_keeps_k_and_renormalises():
    gates = select_experts(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), top_k=2)
    assert (gates > 0).tolist() == [[True, False, True, False]]
    assert gates.sum().item() == pytest.approx(1)
    assert gates[0, 0] / gates[0, 2] == pytest.approx(torch.e, rel=1e-5)


def test_a_single_kept_gate_is_not_renormalised():
    logits = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    gates = select_experts(logits, top_k=1)
    assert gates.max().item() == pytest.approx(logits.softmax(-1).max().item())
    gates.sum().backward()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("shared", [False, True])
def test_collapse_is_exact_for_fixed_gates(shared):
    torch.manual_seed(0)
    lora_a = torch.randn(1 if shared else E, R, D_IN, dtype=torch.float64)
    lora_b = torch.randn(E, R, D_OUT, dtype=torch.float64)
    gates, x = torch.rand(E, dtype=torch.float64), torch.randn(9, D_IN, dtype=torch.float64)
    a, b = collapse(gates, lora_a, lora_b)
    assert a.shape == (R if shared else E * R, D_IN)  # a shared A needs no copies
    assert b.shape == (D_OUT, len(a))
    torch.testing.assert_close(x @ a.T @ b.T, loop(x, gates.expand(9, E), lora_a, lora_b), atol=1e-10, rtol=0)
