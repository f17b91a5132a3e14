"""Start values, weights of the adapters, and the sorted kernels against the masked ones."""

import pytest
import torch
from torch.autograd import gradcheck

from tests.conftest import shaken
from topiclora_cli.adapters.dispatch import dispatch, sparse_delta
from topiclora_cli.adapters.mixture import gated_sum, rank_space
from topiclora_cli.adapters.perft import PerftBlock

SILU = torch.nn.functional.silu


def block_of(model):
    return next(module for module in model.modules() if isinstance(module, PerftBlock))


def outcome(block, x):
    """Output of a block and the gradients of input and adapter, in float64."""
    x = x.detach().clone().requires_grad_()
    leaves = {"x": x} | {name: p for name, p in block.named_parameters() if p.requires_grad}
    out = block(x)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(out.dtype)
    found = torch.autograd.grad((out * weight).sum(), list(leaves.values()), allow_unused=True)
    gradients = {n: g.double() for n, g in zip(leaves, found, strict=True) if g is not None}
    return {"out": out.detach().double()} | gradients


def assert_near(ours, expected, tolerance):
    """Largest deviation relative to the largest entry."""
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        largest = value.abs().max() if value.numel() else 0
        assert ours[name].shape == value.shape, name
        assert ((ours[name] - value).abs() <= tolerance * largest).all(), name


@pytest.mark.parametrize("r", [4, 16])
@pytest.mark.parametrize("adapter_type", ["lora", "parallel"])
def test_variances_at_the_start(r, adapter_type, moe_model, beside):
    base = moe_model(hidden_size=512, num_hidden_layers=1)
    block = block_of(beside(base, r=r, adapter_type=adapter_type, num_adapters=16))
    down, up = block.perft_A["default"].weight, block.perft_B["default"].weight
    assert down.shape == up.shape == (16, r, 512)
    for weights, variance in ((down, 2 / r), (up, 1e-12)):  # at least 32768 draws: deviation of the variance below 1 %
        assert weights.double().var().item() == pytest.approx(variance, rel=0.04)
        assert abs(weights.double().mean().item()) < 0.02 * variance**0.5


AUTO = [
    ("olmoe", {}, {}, "off"),
    ("olmoe", {"norm_topk_prob": True}, {}, "on"),
    ("olmoe", {"norm_topk_prob": True}, {"top_k": 1}, "off"),
    ("olmoe", {"norm_topk_prob": True}, {"renormalize": "off"}, "off"),
    ("olmoe", {}, {"renormalize": "on"}, "on"),
    ("qwen3_moe", {"norm_topk_prob": False}, {}, "off"),
    ("qwen3_moe", {"norm_topk_prob": True}, {}, "on"),
    ("deepseek_v3", {}, {}, "on"),
    ("mixtral", {}, {}, "on"),
    ("mixtral", {}, {"top_k": 1}, "off"),
    ("granitemoe", {}, {}, "on"),
]


@pytest.mark.parametrize(("family", "changes", "settings", "expected"), AUTO, ids=[str(case[:3]) for case in AUTO])
def test_renormalisation_follows_the_base(family, changes, settings, expected, moe_model, beside):
    model = beside(moe_model(family, **changes), **settings)
    block = block_of(model)
    weights, _ = block.choose("default", torch.randn(50, 32))
    assert block.perft_config["default"].renormalize == expected
    assert torch.allclose(weights.sum(-1), torch.ones(50)) == (expected == "on")
    assert model.peft_config["default"].renormalize == settings.get("renormalize", "auto")  # as it was asked for


@pytest.mark.parametrize("renormalize", ["auto", "on"])
def test_one_adapter_per_token_teaches_the_router_unless_renormalised(renormalize, moe_model, beside):
    model = shaken(beside(moe_model("mixtral"), top_k=1, renormalize=renormalize))
    result = outcome(block_of(model), torch.randn(2, 6, 32))
    router = result["perft_router.default.weight"].abs().max()
    assert (router > 1e-2) if renormalize == "auto" else (router < 1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_scaling_is_that_of_each_adapter_type(top_k, moe_model, beside):
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    for alpha, kind, ratio in ((16.0, "lora", 2.0), (16.0, "parallel", 1.0)):
        deltas = []
        for value in (alpha, 2 * alpha):
            settings = {"adapter_type": kind, "top_k": top_k, "num_adapters": 5, "lora_alpha": value}
            block = block_of(shaken(beside(moe_model(), **settings)))
            with torch.no_grad():
                deltas.append(block(x) - block.base_layer(x))
        torch.testing.assert_close(deltas[1], ratio * deltas[0], atol=1e-4, rtol=1e-4)


KERNELS = {
    "routed": {"num_adapters": 5, "r": 4},
    "routed-parallel": {"num_adapters": 5, "adapter_type": "parallel", "renormalize": "on"},
    "routed-all": {"num_adapters": 3, "top_k": 3},
    "routed-and-shared": {"num_adapters": 5, "r": 4, "shared_adapters": 3},
    "routed-and-shared-parallel": {"num_adapters": 5, "adapter_type": "parallel", "shared_adapters": 2},
    "routed-pretrained-weights": {"num_adapters": 5, "router_weight_source": "pretrained"},
    "topic": {"num_adapters": 5, "router": "topic", "train_keys": True},
    "embedded": {"variant": "embedded"},
    "embedded-parallel": {"variant": "embedded", "adapter_type": "parallel"},
}


@pytest.mark.parametrize("shape", [(2, 20, 16), (1, 3, 16), (2, 0, 16)], ids=["many", "few", "none"])
@pytest.mark.parametrize("settings", KERNELS.values(), ids=KERNELS.keys())
def test_sorted_equals_masked_with_all_gradients(settings, shape, moe_model, beside):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sizes = {"hidden_size": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 1}
    results = []
    for kernel in ("dense", "sparse"):
        model = shaken(beside(moe_model("qwen2_moe", **sizes), **settings, kernel=kernel)).double()
        model.set_experts_implementation("eager")
        results.append(outcome(block_of(model), x))
    assert "perft_A.default.weight" in results[0]
    assert_near(results[1], results[0], 1e-10)


@pytest.mark.parametrize("activation", [None, SILU], ids=["lora", "parallel"])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
def test_sorted_kernel_has_the_numerical_gradient(activation, shared_a):
    generator = torch.Generator().manual_seed(0)
    experts = torch.randint(0, 4, (5, 2), generator=generator)  # also a token that chose one adapter twice
    x, weights, down, up = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 6), (5, 2), (1 if shared_a else 4, 3, 6), (4, 3, 6))
    )

    def run(x, weights, down, up):
        return sparse_delta(x, dispatch(experts, weights, 4, even=True), down, up, activation)

    assert gradcheck(run, (x, weights, down, up))


@pytest.mark.parametrize("activation", [None, SILU], ids=["lora", "parallel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["x-f32", "x-bf16"])
@pytest.mark.parametrize("even", [False, True], ids=["grouped", "even-runs"])
@pytest.mark.parametrize("lopsided", [False, True], ids=["spread", "lopsided"])
def test_under_autocast_sorted_is_near_masked(activation, dtype, even, lopsided):
    generator = torch.Generator().manual_seed(4)
    gates = torch.rand(64, 8, generator=generator)
    gates[:, :2] += 9 * lopsided  # nearly all tokens at two adapters, some adapters at none
    weights, experts = gates.topk(2, dim=-1)
    x, down, up = (torch.randn(shape, generator=generator) for shape in ((64, 16), (8, 8, 16), (8, 8, 16)))
    results = []
    with torch.autocast("cpu", torch.bfloat16):
        for by_expert in (True, False):
            leaves = [t.clone().requires_grad_() for t in (x.to(dtype), weights, down, up)]
            if by_expert:
                out = sparse_delta(leaves[0], dispatch(experts, leaves[1], 8, even=even), *leaves[2:], activation)
            else:
                masked = torch.zeros(64, 8).scatter(-1, experts, leaves[1])
                hidden = rank_space(leaves[0], leaves[2])
                out = gated_sum(activation(hidden) if activation else hidden, masked, leaves[3])
            assert out.dtype == torch.bfloat16
            found = torch.autograd.grad(out.float().square().sum(), leaves)
            results.append({str(i): t.detach().double() for i, t in enumerate((out, *found))})
    assert_near(*results, 0.03)


def test_wide_adapters_are_sorted_by_themselves_and_give_the_same(moe_model, beside, monkeypatch):
    sizes = {"num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 1}
    x = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(3))
    sorted_ones, results = [], []
    monkeypatch.setattr(
        "topiclora_cli.adapters.perft.layer.sparse_delta",
        lambda *args, **options: sorted_ones.append(1) or sparse_delta(*args, **options),
    )
    for kernel in ("auto", "dense"):
        block = block_of(shaken(beside(moe_model(**sizes), variant="embedded", r=8, kernel=kernel)))
        results.append(outcome(block, x))
    assert len(sorted_ones) == 1
    assert_near(*results, 1e-5)
