"""Dropout beside a block: a mask for each adapter, and after the first matrix of a parallel one."""

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import shaken
from topiclora_cli.adapters.dispatch import dispatch, sparse_delta
from topiclora_cli.adapters.perft import PerftBlock

M, R, D, P = 3, 4, 32, 0.5


def block_of(model):
    block = next(module for module in model.modules() if isinstance(module, PerftBlock))
    return block.train()


def masks(*shape):
    torch.manual_seed(7)
    return F.dropout(torch.ones(shape), P)


def delta(block, x):
    torch.manual_seed(7)
    return block._delta("default", x)


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_lora_adapters_drop_their_input(kind, moe_model, beside):
    model = beside(moe_model(), variant="dense", num_adapters=M, r=R, lora_dropout=P, expert_dropout=kind)
    block, x = block_of(shaken(model)), torch.randn(5, D)
    drawn = masks(M, 5, D) if kind == "own" else masks(5, D).expand(M, -1, -1)
    down, up = block.factors("default")
    scaling = block.perft_config["default"].scale
    naive = sum(scaling * ((x * drawn[j]) @ down[j].T @ up[j]) for j in range(M))
    torch.testing.assert_close(delta(block, x), naive, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_parallel_adapters_drop_what_their_first_matrix_returns(kind, moe_model, beside):
    settings = {"adapter_type": "parallel", "lora_dropout": P, "expert_dropout": kind}
    block = block_of(shaken(beside(moe_model(), variant="dense", num_adapters=M, r=R, **settings)))
    x, drawn = torch.randn(5, D), masks(5, M, R)
    down, up = block.factors("default")
    naive = sum(F.silu((x @ down[j].T) * drawn[:, j]) @ up[j] for j in range(M))
    torch.testing.assert_close(delta(block, x), naive, atol=1e-5, rtol=1e-5)


def test_the_sorted_kernel_drops_in_the_bottleneck():
    x, down, up = torch.randn(6, D), torch.randn(M, R, D), torch.randn(M, R, D)
    weights, experts = torch.rand(6, M).topk(2)
    plan = dispatch(experts, weights, M, even=True)
    drawn = masks(len(plan.token), R)
    naive = torch.zeros(6, D)
    for pair, token in enumerate(plan.token.tolist()):
        expert = pair // plan.capacity
        naive[token] += plan.weight[pair] * (F.silu((down[expert] @ x[token]) * drawn[pair]) @ up[expert])
    torch.manual_seed(7)
    torch.testing.assert_close(sparse_delta(x, plan, down, up, F.silu, rank_dropout=P), naive, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"adapter_type": "parallel"}, {"expert_dropout": "own"}, {}])
@pytest.mark.parametrize("kernel", ["dense", "sparse"])
def test_a_routed_block_drops_in_training_alone(settings, kernel, moe_model, beside):
    model = beside(moe_model(), num_adapters=4, r=4, lora_dropout=P, kernel=kernel, **settings)
    block, x = block_of(shaken(model)), torch.randn(1, 5, D)
    with torch.no_grad():
        assert not torch.equal(block(x), block(x))
        block.eval()
        assert torch.equal(block(x), block(x))
