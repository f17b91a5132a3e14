"""Dropout on experts: one mask for all or one for each, against loops over experts with the same masks."""

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import nn

from topiclora_cli.adapters import TopicLoraConfig, dropout
from topiclora_cli.adapters.dispatch import dispatch, prefers_sparse, sparse_delta
from topiclora_cli.adapters.dropout import own_rank_space
from topiclora_cli.errors import TopicLoraError

E, R, D, OUT, TOKENS, P = 4, 4, 16, 8, 24, 0.5


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def leaves(shared):
    sizes = {"x": (TOKENS, D), "a": (1 if shared else E, R, D), "b": (E, R, OUT), "gates": (TOKENS, E)}
    return {name: torch.randn(size, requires_grad=True) for name, size in sizes.items()}


def gradients(out, parts):
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((out * upstream).sum(), list(parts.values()), allow_unused=True, retain_graph=True)


def assert_the_same(ours, naive, parts):
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)
    for actual, expected in zip(gradients(ours, parts), gradients(naive, parts), strict=True):
        if expected is not None:
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def drawn(*shapes):
    """The masks that dropout draws for these shapes, one after another, from the seed on."""
    torch.manual_seed(7)
    return [F.dropout(torch.ones(shape), P) for shape in shapes]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("at_a_time", [1 << 26, 2 * TOKENS * D, 1])
def test_own_masks_are_a_loop_over_experts_with_a_mask_each(shared, at_a_time, monkeypatch):
    monkeypatch.setattr(dropout, "AT_A_TIME", at_a_time)
    parts = leaves(shared)
    step = max(1, min(E, at_a_time // (TOKENS * D)))
    masks = torch.cat(drawn(*[(step, TOKENS, D)] * (E // step)))
    assert len(masks.flatten(1).unique(dim=0)) == E
    naive = torch.stack([(parts["x"] * masks[e]) @ parts["a"][e % len(parts["a"])].T for e in range(E)], -2)
    torch.manual_seed(7)
    assert_the_same(own_rank_space(parts["x"], parts["a"], E, P), naive, parts)


def test_nothing_of_the_experts_width_is_kept_for_backward():
    parts, kept = leaves(shared=False), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        own_rank_space(parts["x"], parts["a"], E, P)
    assert max(kept, default=0) <= TOKENS * D


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("even", [False, True])
def test_the_sorted_kernel_draws_a_mask_for_every_pair(shared, even):
    parts = leaves(shared)
    experts = parts["gates"].topk(2).indices
    weights = parts["gates"].gather(-1, experts)
    plan = dispatch(experts, weights, E, even=even)
    (masks,) = drawn((len(plan.token), D))
    naive = torch.zeros(TOKENS, OUT)
    ends = [0, *plan.ends.tolist()] if plan.capacity is None else range(0, len(plan.token) + 1, plan.capacity)
    for e in range(E):
        for pair in range(ends[e], ends[e + 1]):
            token = int(plan.token[pair])
            hidden = parts["a"][e % len(parts["a"])] @ (parts["x"][token] * masks[pair])
            row = plan.weight[pair] * (hidden @ parts["b"][e])
            naive = naive.index_add(0, torch.tensor([token]), row[None])
    torch.manual_seed(7)
    assert_the_same(sparse_delta(parts["x"], plan, parts["a"], parts["b"], dropout=P), naive, parts)


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(D, OUT)

    def forward(self, x):
        return self.proj(x)


def mixture(**settings):
    """A layer whose experts are all the same, so that only their masks tell them apart."""
    settings = {
        "r": R,
        "num_experts": E,
        "target_modules": ["proj"],
        "router": "uniform",
        "lora_dropout": P,
        **settings,
    }
    model = get_peft_model(Holder(), TopicLoraConfig(**settings))
    layer = model.base_model.model.proj
    with torch.no_grad():
        for factor in layer.factors("default"):
            factor.copy_(torch.randn(factor.shape[1:]).expand_as(factor))
    return model.train()


@pytest.mark.parametrize("settings", [{"kernel": "plain"}, {"kernel": "sparse", "router": "static", "top_k": E}])
@pytest.mark.parametrize("shared_a", [False, True])
def test_both_kinds_average_to_the_layer_without_dropout_and_own_masks_waver_less(settings, shared_a):
    x = torch.randn(1, D)
    draws = {}
    for kind in ("shared", "own"):
        torch.manual_seed(0)
        model = mixture(expert_dropout=kind, shared_a=shared_a, **settings)
        with torch.no_grad():
            draws[kind] = model(x.expand(4000, D))
            model.eval()
            errors = (draws[kind].mean(0) - model(x)[0]) / (draws[kind].std(0) / 4000**0.5)
            assert errors.abs().max() < 4
    # The mean of E independent draws has an E-th of the variance.
    ratio = (draws["shared"].var(0) / draws["own"].var(0)).mean().item()
    assert ratio == pytest.approx(E, rel=0.15)


def test_in_evaluation_the_kind_makes_no_difference():
    x = torch.randn(3, D)
    outputs = []
    for kind in ("shared", "own"):
        torch.manual_seed(0)
        outputs.append(mixture(expert_dropout=kind).eval()(x))
    assert torch.equal(*outputs)


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict(
            {"gate_proj": nn.Linear(D, 6), "up_proj": nn.Linear(D, 6), "down_proj": nn.Linear(6, D)}
        )

    def forward(self, x):
        return self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](x)) * self.mlp["up_proj"](x))


@pytest.mark.parametrize(("kind", "equal"), [("shared", True), ("own", False)])
def test_between_a_blocks_layers_each_experts_row_has_its_own_mask(kind, equal):
    config = TopicLoraConfig(
        r=R, num_experts=2, target_modules="all-linear", router="static", router_scope="block", top_k=2, mixing="ffn",
        lora_dropout=P, expert_dropout=kind,
    )  # fmt: skip
    model = get_peft_model(FeedForward(), config).train()
    gate = model.base_model.model.mlp["gate_proj"]
    with torch.no_grad():
        for factor in gate.factors("default"):
            factor.copy_(torch.randn(factor.shape[1:]).expand_as(factor))
        rows = gate(torch.randn(1, 3, D)).unflatten(-2, (3, 2))
    assert torch.allclose(rows[..., 0, :], rows[..., 1, :]) is equal


def test_own_masks_are_drawn_for_the_chosen_experts_alone_where_that_is_fewer():
    x, lora_b = torch.randn(64, D), torch.randn(E, R, OUT)
    assert not prefers_sparse(x, lora_b, 2)
    assert prefers_sparse(x, lora_b, 2, own_masks=True)
    assert not prefers_sparse(x, lora_b, 3, own_masks=True)
    assert not prefers_sparse(x, lora_b, None, own_masks=True)


def test_an_unknown_kind_is_an_error():
    with pytest.raises(TopicLoraError, match="expert_dropout 'each' is unknown"):
        TopicLoraConfig(expert_dropout="each")
