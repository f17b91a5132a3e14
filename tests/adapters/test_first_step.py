"""What the first step of Adam moves of the output: under `scaling: total` as much as of a plain LoRA of its alpha."""

import functools

import pytest
import torch
from peft import LoraConfig
from torch import nn

from topiclora_cli.adapters.counting import plain_rank_on
from topiclora_cli.recipe import build_recipe
from topiclora_cli.training.attach import attach, solve

WIDTH, TOKENS, RATE = 256, 4, 1e-4
TARGETS = ["q_proj", "o_proj"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)


class Body(nn.Module):
    """Two decoder layers of two linear layers each, all of which read the same input and none another's output."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])

    def prepare_inputs_for_generation(self):
        """What peft looks for in a language model."""

    def forward(self, x):
        return torch.stack([linear(x) for layer in self.layers for linear in (layer.q_proj, layer.o_proj)])


def section(method="topiclora", **adapter):
    adapter = {"method": method, "target_modules": TARGETS, **adapter}
    return build_recipe({"name": "x", "model": {"name": "m"}, "adapter": adapter}, where="here").adapter


def moved(make, *, draws=1, alike=True):
    """Mean change of each layer's output (4,) by one step of Adam, over draws of a fresh adapter.

    alike: every row of A meets the input with one and the same |a x|, as rows do on average.
    """
    changes = []
    for seed in range(draws):
        torch.manual_seed(seed)
        base = Body()
        # One token, repeated: what several tokens want of an entry of B need not have one sign.
        x = torch.randn(1, 1, WIDTH)
        model = attach(base, make(base))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "router" in name:
                    parameter.mul_(0.01)  # nearly even, as the law takes gates to be
                elif alike and ("topiclora_A" in name or "lora_A" in name):
                    signs = torch.randn(*parameter.shape[:-1], 1).sign()
                    parameter.copy_(signs * x[0, 0] / x.square().sum())
        forward, wanted = model.get_base_model(), torch.randn(4, 1, 1, WIDTH)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=RATE)
        tokens = x.expand(1, TOKENS, WIDTH)
        before = forward(tokens)
        (before * wanted).sum().backward()
        optimizer.step()
        with torch.no_grad():
            changes.append((forward(tokens) - before).abs().mean((1, 2, 3)))
    return torch.stack(changes).mean(0)


@functools.cache
def lora(rank, alpha, **how):
    return moved(lambda base: LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS), **how)


# Each has the parameters of 64 ranks of a plain LoRA.
VARIANTS = {
    "top-2": {},
    "top-4": {"top_k": 4},
    "dense": {"top_k": None},
    "one of eight": {"top_k": 1},
    "the fewest that hold 0.7": {"top_p": 0.7},
    "probabilities": {"gate_weights": "probability"},
    "constant": {"gate_weights": "constant"},
    "rank 4": {"num_experts": 16, "r": 4},
    "rank 16": {"num_experts": 4, "r": 16},
    "ranks by depth": {"ranks_by_depth": [4, 12]},
    "experts by depth": {"experts_by_depth": [4, 12]},
    "shared experts": {"shared_experts": 4, "num_experts": 4},
    "shared experts in the softmax": {"shared_experts": 4, "num_experts": 4, "shared_gate": "softmax"},
    "shared experts, one of four": {"shared_experts": 4, "num_experts": 4, "top_k": 1},
    "one decision for a layer": {"router_scope": "layer"},
    "molora": {"method": "molora", "scaling": "total"},
    "adamole": {"method": "adamole", "scaling": "total", "r": 8, "lora_dropout": 0.0},
    "ldmole": {"method": "ldmole", "scaling": "total", "lora_dropout": 0.0, "router_dropout": 0.0},
    "gmoe": {"method": "gmoe", "scaling": "total"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_step_is_that_of_a_plain_lora_of_equal_size(name):
    chosen = section(**VARIANTS[name])
    assert chosen.lora_alpha == pytest.approx(128)
    ratios = moved(lambda base: solve(chosen, base)) / lora(64, 128.0)
    torch.testing.assert_close(ratios, torch.ones(4), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["top-2", "dense", "shared experts"])
def test_so_it_is_on_average_from_the_start_that_adapters_have(name):
    how = {"draws": 16, "alike": False}
    change = moved(lambda base: solve(section(**VARIANTS[name]), base), **how)
    assert (change.mean() / lora(64, 128.0, **how).mean()).item() == pytest.approx(1, abs=0.05)


def test_an_expert_by_itself_starts_an_eighth_as_fast():
    chosen = section(scaling="expert")
    assert chosen.lora_alpha == 16
    ratios = moved(lambda base: solve(chosen, base)) / lora(64, 128.0)
    torch.testing.assert_close(ratios, torch.full((4,), 1 / 8), atol=0.01, rtol=0)


@pytest.mark.parametrize("shared", [0, 2])
def test_with_one_a_alpha_follows_the_parameters(shared):
    chosen = section(shared_a=True, shared_experts=shared)
    assert chosen.lora_alpha == 8 * (1 + 8 + shared)
    ratios = moved(lambda base: solve(chosen, base)) / lora(64, 128.0)
    torch.testing.assert_close(ratios, torch.full((4,), chosen.lora_alpha / 128), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"shared_a": True},
        {"shared_experts": 4},
        {"num_experts": 4, "top_k": 1},
        {"experts_by_depth": [2, 6]},
        {"method": "mola", "scaling": "total", "lora_dropout": 0.0},
        {"plain_modules": ["o_proj"]},
    ],
    ids=str,
)
def test_methods_at_one_budget_start_with_one_slope(adapter):
    base = Body()
    plain = solve(section("lora", budget="total=200K"), base)
    config = solve(section(**{"budget": "total=200K", "router_scope": "layer", **adapter}), base)
    assert config.lora_alpha == pytest.approx(2 * plain_rank_on(base, config))
    ratios = moved(lambda _: config) / lora(plain.r, plain.lora_alpha)
    torch.testing.assert_close(ratios, torch.ones(4), atol=0.05, rtol=0)
