"""The kernels of the mixture layer against plain loops over experts: outputs and every gradient."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.dispatch import dispatch, prefers_sparse
from topiclora_cli.adapters.fused import can_fuse, fused_mixture, fused_sorted_mixture
from topiclora_cli.adapters.selection import select_experts

E, R, D_IN, D_OUT = 5, 4, 12, 8
KERNELS = ["plain", "dense", "sparse"]
SHAPES = [(7, D_IN), (2, 3, D_IN)]


class Holder(nn.Module):
    def __init__(self, bias, size):
        super().__init__()
        self.proj = nn.Linear(size, D_OUT, bias=bias)

    def forward(self, x):
        return self.proj(x)


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict(
            {name: nn.Linear(*size) for name, size in
             {"gate_proj": (D_IN, 6), "up_proj": (D_IN, 6), "down_proj": (6, D_IN)}.items()}
        )  # fmt: skip

    def forward(self, x):
        return self.mlp["down_proj"](nn.functional.silu(self.mlp["gate_proj"](x)) * self.mlp["up_proj"](x))


def layer(kernel, *, bias=True, size=D_IN, dtype=torch.float64, **settings):
    """A mixture layer with random weights throughout."""
    torch.manual_seed(0)
    config = TopicLoraConfig(
        **{"r": R, "num_experts": E, "target_modules": ["proj"], "router": "linear", "kernel": kernel, **settings}
    )
    mixture = get_peft_model(Holder(bias, size), config).base_model.model.proj
    return randomised(mixture, dtype)


def randomised(module, dtype):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.to(dtype)


def expert(mixture, index, x):
    """s B_e A_e x."""
    lora_a, lora_b = mixture.topiclora_A["default"].weight, mixture.topiclora_B["default"].weight
    return mixture.topiclora_config["default"].scale * (x @ lora_a[index % len(lora_a)].T @ lora_b[index])


def loop(mixture, x):
    """The layer as a sum over experts."""
    gates = select_experts(
        x @ mixture.topiclora_router["default"].weight.T, top_k=mixture.topiclora_config["default"].top_k
    )
    return mixture.base_layer(x) + sum(gates[..., e, None] * expert(mixture, e, x) for e in range(E))


def outcome(function, module, x):
    """Output and gradients of a weighted sum of it, in float64."""
    x = x.detach().clone().requires_grad_()
    out = function(x)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaves = {"x": x} | {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad((out * weight.to(out.dtype)).sum(), list(leaves.values()))
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        assert gradient.dtype == leaf.dtype, name
    return {"out": out.detach().double()} | {n: g.double() for n, g in zip(leaves, gradients, strict=True)}


def assert_near(ours, naive, tolerance):
    """Largest deviation relative to the largest entry."""
    assert ours.keys() == naive.keys()
    for name, expected in naive.items():
        assert (ours[name] - expected).abs().max() <= tolerance * expected.abs().max(), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"])
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_a_loop_over_experts(kernel, top_k, shared_a, bias, shape, dtype, tolerance):
    mixture = layer(kernel, top_k=top_k, shared_a=shared_a, bias=bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    naive = outcome(lambda x: loop(mixture, x), mixture, x)
    mixture = mixture.to(dtype)
    assert can_fuse(x.to(dtype), mixture.topiclora_A["default"].weight, mixture.base_layer)
    assert_near(outcome(mixture, mixture, x.to(dtype)), naive, tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_block_form_is_a_mixture_of_whole_feed_forward_blocks(top_k, shared_a, shape):
    settings = {"r": R, "num_experts": E, "target_modules": ["gate_proj", "up_proj", "down_proj"], "router": "linear"}
    config = TopicLoraConfig(**settings, top_k=top_k, shared_a=shared_a, mixing="ffn", router_scope="block")
    model = randomised(get_peft_model(FeedForward(), config), torch.float64)
    parts = model.base_model.model.mlp

    def naive(x):
        gates = select_experts(x @ parts["gate_proj"].topiclora_router["default"].weight.T, top_k=top_k)
        share = gates / gates.sum(-1, keepdim=True)  # of the base's part, which a single gate below one must not shrink
        total = 0
        for e in range(E):
            gate, up = (parts[n].base_layer(x) + expert(parts[n], e, x) for n in ("gate_proj", "up_proj"))
            inner, down = nn.functional.silu(gate) * up, parts["down_proj"]
            total = total + share[..., e, None] * (inner @ down.base_layer.weight.T)
            total = total + gates[..., e, None] * expert(down, e, inner)
        return total + parts["down_proj"].base_layer.bias

    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert_near(outcome(model, model, x), outcome(naive, model, x), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["x-f32", "x-bf16"])
@pytest.mark.parametrize("kernel", ["dense", "sparse"])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
def test_under_autocast_each_kernel_is_near_the_plain_one(kernel, shared_a, dtype):
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(3)).to(dtype)
    results = []
    for name in ("plain", kernel):
        mixture = layer(name, r=8, size=16, top_k=2, shared_a=shared_a, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            assert mixture(x).dtype == torch.bfloat16
            results.append(outcome(mixture, mixture, x))
    assert_near(results[1], results[0], 0.03)


def test_wide_mixtures_take_the_sparse_way_by_themselves():
    wide = {"num_experts": 64, "top_k": 2, "size": 16}
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(3))
    mixture = layer("auto", **wide, dtype=torch.float32)
    assert prefers_sparse(x, mixture.topiclora_B["default"].weight, 2)
    expected = layer("plain", **wide)(x.double())
    torch.testing.assert_close(mixture(x).double(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer("auto", **wide)(x.double()), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("lopsided", [False, True], ids=["spread", "lopsided"])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
@pytest.mark.parametrize("even", [False, True], ids=["grouped", "even-runs"])
def test_sorted_runs_of_any_length_give_the_masked_result(even, shared_a, lopsided):
    generator = torch.Generator().manual_seed(4)
    experts, rank, size, tokens = 8, 4, 16, 64
    base = nn.Linear(size, size).requires_grad_(False)
    x = torch.randn(tokens, size, generator=generator)
    lora_a = torch.randn(1 if shared_a else experts, rank, size, generator=generator)
    lora_b = torch.randn(experts, rank, size, generator=generator)
    logits = torch.randn(tokens, experts, generator=generator)
    logits[:, :2] += 99 * lopsided

    def sort(gates):
        weights, chosen = gates.topk(2, dim=-1)
        return dispatch(chosen, weights, experts, even=even)

    plan = sort(select_experts(logits, top_k=2))
    assert (plan.capacity is None) == (lopsided or not even)
    results = []
    for by_expert in (True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, logits, lora_a, lora_b)]
        gates = select_experts(leaves[1], top_k=2)
        if by_expert:
            out = fused_sorted_mixture(leaves[0], sort(gates), leaves[2], leaves[3], base)
        else:
            out = fused_mixture(leaves[0], lambda _, gates=gates: gates, leaves[2], leaves[3], base)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for ours, masked in zip(*results, strict=True):
        assert (ours - masked).abs().max() <= 1e-5 * masked.abs().max()


def test_the_fused_kernel_refuses_to_be_differentiated_twice():
    mixture = layer("dense")
    x = torch.randn(3, D_IN, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixture(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
def test_no_rows_are_no_error(kernel, shared_a):
    mixture = layer(kernel, top_k=2, shared_a=shared_a, dtype=torch.float32)
    for shape in ((0, D_IN), (0, 4, D_IN), (2, 0, D_IN)):
        result = outcome(mixture, mixture, torch.empty(shape))
        assert result["out"].shape == (*shape[:-1], D_OUT)
        assert not any(gradient.any() for name, gradient in result.items() if name not in ("out", "x"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_output_may_be_changed_in_place(kernel):
    mixture = layer(kernel, dtype=torch.float32)
    x = torch.randn(2, 3, D_IN, generator=torch.Generator().manual_seed(3))
    assert_near(outcome(lambda x: mixture(x).add_(1), mixture, x), outcome(lambda x: mixture(x) + 1, mixture, x), 0)


@pytest.mark.parametrize("router", ["linear", "topic", "cosine", "threshold", "sparsegen", "hierarchical", "graph"])
def test_routers_keep_float64_and_otherwise_decide_in_float32(router):
    f64, f32, f16 = torch.float64, torch.float32, torch.float16
    for dtype, expected in ((f64, f64), (f32, f32), (f16, f32)):
        mixture = layer("plain", router=router, shared_a=True, router_width=6, dtype=dtype)
        assert mixture.route("default", torch.randn(2, 3, D_IN, dtype=dtype)).gates.dtype == expected
    with torch.autocast("cpu", torch.bfloat16):
        mixture = layer("plain", router=router, shared_a=True, router_width=6, dtype=torch.float32)
        assert mixture.route("default", torch.randn(2, 3, D_IN)).gates.dtype == torch.float32
