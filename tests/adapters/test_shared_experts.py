"""Experts that every token passes through, beside the routed ones: each kernel against plain loops over all experts."""

from unittest.mock import Mock

import pytest
import torch
from peft import get_peft_model
from torch import nn

from tests.adapters.test_kernels import D_IN, D_OUT, KERNELS, E, FeedForward, R, assert_near, expert, layer, outcome
from tests.adapters.test_kernels import randomised as with_random_weights
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.routers import ROUTERS
from topiclora_cli.adapters.selection import select_experts
from topiclora_cli.adapters.topiclora import linear

S = 3
CHOICES = [{"top_k": None}, {"top_k": 1}, {"top_k": 2}, {"top_p": 0.6}]


def batch(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


def scores(mixture, x):
    """What the router says of routed and shared experts, (..., E) and (..., S)."""
    router = mixture.topiclora_router["default"]
    if mixture.topiclora_config["default"].router == "topic":
        routed = (x @ router.weight.T) @ router.keys.T * router.scale + router.bias
    else:
        routed = x @ router.weight.T
    return routed, x @ router.shared_weight.T if hasattr(router, "shared_weight") else None


def naive_gates(mixture, x):
    """(..., E + S), the definition written out."""
    config = mixture.topiclora_config["default"]
    routed, shared = scores(mixture, x)
    gates = select_experts(routed, top_k=config.top_k, top_p=config.top_p)
    if shared is None:
        return torch.cat([gates, torch.ones(*x.shape[:-1], S, dtype=x.dtype)], -1)
    weight = routed.exp() * (gates > 0)
    total = weight.sum(-1, keepdim=True) + shared.exp().sum(-1, keepdim=True)
    return torch.cat([weight, shared.exp()], -1) / total


def loop(mixture, x):
    """The layer as a sum over all experts."""
    gates = naive_gates(mixture, x)
    return mixture.base_layer(x) + sum(gates[..., e, None] * expert(mixture, e, x) for e in range(E + S))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "one-a"])
@pytest.mark.parametrize("gate", ["one", "softmax"])
@pytest.mark.parametrize("router", ["linear", "topic"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_a_loop_over_all_experts(kernel, router, gate, shared_a, choice):
    mixture = layer(kernel, router=router, shared_experts=S, shared_gate=gate, shared_a=shared_a, **choice)
    for shape in ((7, D_IN), (2, 3, D_IN)):
        x = batch(*shape)
        assert_near(outcome(mixture, mixture, x), outcome(lambda x: loop(mixture, x), mixture, x), 1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("router", ROUTERS)
def test_any_router_leaves_shared_experts_a_gate_of_one(router, kernel):
    settings = {"router_width": 6, "shared_a": router == "cosine"}
    mixture = layer(kernel, router=router, shared_experts=S, **settings)
    x = batch(2, 3, D_IN)

    def naive(x):
        routing = mixture.route("default", x)
        assert torch.equal(routing.gates[..., E:], torch.ones(2, 3, S, dtype=torch.float64))
        return mixture.base_layer(x) + sum(routing.gates[..., e, None] * expert(mixture, e, x) for e in range(E + S))

    assert_near(outcome(mixture, mixture, x), outcome(naive, mixture, x), 1e-10)


@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "one-a"])
def test_mixed_after_a_non_linearity_they_are_part_of_every_chosen_expert(shared_a, top_k):
    names = ["gate_proj", "up_proj", "down_proj"]
    settings = {"mixing": "ffn", "router_scope": "block", "router": "linear", "shared_experts": S}
    config = TopicLoraConfig(r=R, num_experts=E, target_modules=names, top_k=top_k, shared_a=shared_a, **settings)
    model = with_random_weights(get_peft_model(FeedForward(), config), torch.float64)
    parts = model.base_model.model.mlp

    def always(part, x):
        return sum(expert(part, e, x) for e in range(E, E + S))

    def naive(x):
        gates = select_experts(x @ parts["gate_proj"].topiclora_router["default"].weight.T, top_k=top_k)
        share, down, total = gates / gates.sum(-1, keepdim=True), parts["down_proj"], 0
        for e in range(E):
            gate, up = (
                parts[n].base_layer(x) + always(parts[n], x) + expert(parts[n], e, x) for n in ("gate_proj", "up_proj")
            )
            inner = nn.functional.silu(gate) * up
            total = total + share[..., e, None] * (inner @ down.base_layer.weight.T + always(down, inner))
            total = total + gates[..., e, None] * expert(down, e, inner)
        return total + down.base_layer.bias

    x = batch(2, 3, D_IN)
    assert_near(outcome(model, model, x), outcome(naive, model, x), 1e-10)


@pytest.mark.parametrize("kernel", ["plain", "sparse"])
def test_one_mask_serves_routed_and_shared_experts_alike(kernel):
    mixture = layer(kernel, shared_experts=S, top_k=2, lora_dropout=0.5, lora_alpha=R).train()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.fill_(0)
        mixture.topiclora_A["default"].weight.fill_(1)
        mixture.topiclora_B["default"].weight[:, 0] = 1
    # Each expert adds twice the number of entries that were left of x; gates sum to one, and S times one.
    left = mixture(torch.ones(40, D_IN, dtype=torch.float64)) / (2 * (1 + S))
    assert len(left.round().unique()) > 3
    torch.testing.assert_close(left, left.round())
    mixture.topiclora_config["default"].expert_dropout = "own"
    left = mixture(torch.ones(40, D_IN, dtype=torch.float64)) / (2 * (1 + S))
    assert not torch.allclose(left, left.round())


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_rows_are_no_error(kernel):
    mixture = layer(kernel, top_k=2, shared_experts=S, shared_gate="softmax", dtype=torch.float32)
    for shape in ((0, D_IN), (2, 0, D_IN)):
        assert outcome(mixture, mixture, torch.empty(shape))["out"].shape == (*shape[:-1], D_OUT)


def test_experts_for_every_token_do_not_decide_whether_to_sort(monkeypatch):
    x = batch(40, 16, dtype=torch.float32)
    for experts, sorts in ((40, False), (60, True)):  # of rank 4, where 192 is the limit
        sizes = {"num_experts": experts, "size": 16, "top_k": 2, "shared_experts": 40}
        mixture = layer("auto", **sizes, dtype=torch.float32)
        with monkeypatch.context() as patch:
            patch.setattr(linear, "sparse_delta", sparse_delta := Mock(wraps=linear.sparse_delta))
            out = mixture(x)
        assert sparse_delta.called == sorts
        expected = layer("plain", **sizes)(x.double())
        torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-4)


def test_the_plain_kernel_can_be_differentiated_twice_in_a_feed_forward_block():
    names = ["gate_proj", "up_proj", "down_proj"]
    settings = {"mixing": "ffn", "router_scope": "block", "router": "linear", "shared_experts": S, "kernel": "plain"}
    model = get_peft_model(FeedForward(), TopicLoraConfig(r=R, num_experts=E, target_modules=names, **settings))
    x = batch(3, D_IN).requires_grad_()
    out = with_random_weights(model, torch.float64)(x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    gradient.sum().backward()
    assert x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["x-f32", "x-bf16"])
@pytest.mark.parametrize("kernel", ["dense", "sparse"])
def test_under_autocast_each_kernel_is_near_the_plain_one(kernel, dtype):
    x, results = batch(2, 3, 16).to(dtype), []
    for name in ("plain", kernel):
        mixture = layer(name, r=8, size=16, top_k=2, shared_experts=S, shared_gate="softmax", dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            assert mixture(x).dtype == torch.bfloat16
            results.append(outcome(mixture, mixture, x))
    assert_near(results[1], results[0], 0.03)
