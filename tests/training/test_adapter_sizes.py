"""What is counted on few layers is what the whole model has, to the digit; a budget buys the nearest rank."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OlmoeConfig, OlmoeForCausalLM

from tests.conftest import TINY
from topiclora_cli.adapters.counting import count_on, count_parameters, plain_rank_on
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.recipe.adapter import KINDS, MixtureSection
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.training.attach import attach, solve
from topiclora_cli.training.sizes import AdapterSizes

LAYERS = 4
SPARSE = ["lora-router", "lora-experts", *(name for name, method in METHODS.items() if method.layer == "perft")]
DENSE = [name for name in METHODS if name not in ("xlora", *SPARSE)]
BY_DEPTH = ("mola", "hmora")


def dense():
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **{**TINY, "num_hidden_layers": LAYERS}))


def sparse():
    sizes = {**TINY, "num_hidden_layers": LAYERS}
    return OlmoeForCausalLM(OlmoeConfig(vocab_size=64, num_experts=4, num_experts_per_tok=2, **sizes))


@pytest.fixture(scope="module")
def skeletons():
    with torch.device("meta"):
        return {False: dense(), True: sparse()}


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2-135M's shapes without storage."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=30, **sizes))


def section(method, **settings):
    values = {"name": "x", "model": {"name": "m"}, "adapter": {"method": method, **settings}}
    return build_recipe(values, where="here").adapter


def on_few(sizes):
    """Whether nothing was counted on the whole model."""
    return all(layers is not None for layers, *_ in sizes._known)


@pytest.mark.parametrize("method", [*DENSE, *SPARSE])
def test_every_method_counts_as_on_the_whole_model(method, skeletons):
    model = skeletons[method in SPARSE]
    sizes, wanted = AdapterSizes(model, by_layer=True), section(method)
    config = solve(wanted.model_copy(update={"r": 5}), model)
    assert sizes.count(wanted, 5) == count_on(model, config)
    if METHODS[method].layer == "mixture":
        assert sizes.plain_rank(wanted, 5) == plain_rank_on(model, config)
    assert on_few(sizes) == (method not in BY_DEPTH)


@pytest.mark.parametrize(
    ("settings", "few"),
    [
        ({"layers_to_transform": [0, 1, 3]}, True),
        ({"layers_to_transform": [3]}, True),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"target_modules": ["q_proj", "lm_head"]}, True),
        ({"target_modules": ["q_proj"], "router_scope": "layer", "shared_experts": 1}, True),
        ({"target_modules": "attention", "exclude_modules": ["o_proj"]}, True),
        ({"target_modules": r".*layers\.[13]\.mlp\.up_proj"}, False),
        ({"target_modules": ["layers.2.mlp.up_proj"]}, False),
        ({"exclude_modules": r".*\.0\..*"}, False),
        ({"ranks_by_depth": [2, 4]}, False),
    ],
)
def test_places_count_as_on_a_real_model(settings, few, skeletons):
    sizes, wanted = AdapterSizes(skeletons[False], by_layer=True), section("topiclora", **settings)
    assert sizes.count(wanted, wanted.r) == count_parameters(attach(dense(), solve(wanted, dense())))
    assert sizes.plain_rank(wanted, wanted.r) == plain_rank_on(skeletons[False], solve(wanted, skeletons[False]))
    assert on_few(sizes) == few


@pytest.mark.parametrize(
    ("method", "budget"),
    [("topiclora", "total=141.7K"), ("hydralora", "activated=91.3K"), ("adalora", "total=87%"), ("mola", "total=99K")],
)
def test_a_budget_buys_the_same_rank_and_scale(method, budget, skeletons):
    sizes, wanted = AdapterSizes(skeletons[False], by_layer=True), section(method, budget=budget)
    quick, slow = solve(wanted, skeletons[False], sizes=sizes), solve(wanted, skeletons[False])
    assert quick.to_dict() == slow.to_dict()


def test_layers_that_are_not_alike_are_counted_one_and_all():
    with torch.device("meta"):
        model = dense()
        model.model.layers[3].mlp.up_proj = torch.nn.Linear(32, 40, bias=False)
    sizes, wanted = AdapterSizes(model, by_layer=True), section("lora")
    assert sizes.count(wanted, 2) == count_on(model, solve(wanted.model_copy(update={"r": 2}), model))
    assert not on_few(sizes)


def test_a_budget_out_of_reach_and_targets_that_are_not_there_are_told_of_the_whole_model(skeletons):
    sizes = AdapterSizes(skeletons[False], by_layer=True)
    with pytest.raises(TopicLoraError, match=r"even rank 1 has .* total parameters, more than 100") as quick:
        solve(section("lora", budget="total=100"), skeletons[False], sizes=sizes)
    with pytest.raises(TopicLoraError) as slow:
        solve(section("lora", budget="total=100"), skeletons[False])
    assert str(quick.value) == str(slow.value)
    with pytest.raises(TopicLoraError, match="nope"):
        sizes.count(section("topiclora", target_modules=["nope"]), 4)


@pytest.mark.parametrize(
    ("peft_method", "budget", "rank"),
    [("lora", "total=4.9M", 16), (None, "total=20.74M", 8), (None, "activated=6.08M", 8), ("adalora", "total=7M", 15)],
)
def test_rank_for_a_budget(peft_method, budget, rank, smollm2):
    section = MixtureSection(top_k=2) if peft_method is None else KINDS[peft_method](method=peft_method)
    assert AdapterSizes(smollm2).rank_for(budget, section) == rank


def test_a_budget_counts_experts_for_every_token(smollm2):
    section = MixtureSection(top_k=2, shared_experts=8)
    sizes = AdapterSizes(smollm2)
    total, activated = sizes.count(section, 4)
    assert sizes.rank_for("total=20.74M", section) == 4  # half that of eight experts alone
    assert sizes.rank_for(f"total={total}", section) == sizes.rank_for(f"activated={activated}", section)
    one = 4 * 30 * (576 * 9 + 1536 * 3 + 192 * 2)  # both ends of an expert's seven linear layers
    assert total - activated == 6 * one


def test_a_budget_below_rank_one_is_refused(smollm2):
    with pytest.raises(TopicLoraError, match=r"even rank 1 has .* more than 500,000"):
        AdapterSizes(smollm2).rank_for("total=500K", MixtureSection())
