"""What the presets make of a model is what the methods' own code has: scale, dropout, the routers' start and form."""

import json

import pytest
import torch
from peft import LoraConfig, XLoraConfig, get_peft_model

from tests.conftest import shaken
from topiclora_cli.adapters import record_routing
from topiclora_cli.adapters.presets import make_config
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.recipe import build_recipe
from topiclora_cli.recipe.methods import METHODS


def section(method, **adapter):
    recipe = {"name": "x", "model": {"name": "x"}, "adapter": {"method": method, **adapter}}
    return build_recipe(recipe, where=method)


def config(method, model, **adapter):
    recipe = section(method, **adapter)
    return make_config(recipe.adapter.layer, recipe.adapter.model_dump(), model)


# scale; dropout on experts and how it is drawn; dropout on the router; the router's start
FACTS = {
    "molora": (2.0, 0.0, "shared", 0.0, "kaiming"),
    "mola": (2.0, 0.05, "own", 0.0, "kaiming"),
    "hydralora": (8.0, 0.05, "own", 0.0, "kaiming"),
    "loramoe": (8.0, 0.05, "own", 0.0, "kaiming"),
    "adamole": (4.0, 0.05, "own", 0.0, "kaiming"),
    "mixlora": (2.0, 0.05, "own", 0.0, "normal"),
    "hmora": (8 / 8**0.5, 0.1, "shared", 0.1, "kaiming"),
    "gmoe": (0.5, 0.0, "shared", 0.0, "kaiming"),
    "samora": (1.0, 0.05, "shared", 0.05, "kaiming"),
    "ldmole": (2.0, 0.1, "shared", 0.1, "kaiming"),
    "topiclora": (16.0, 0.0, "shared", 0.0, "kaiming"),
}


def test_the_facts_are_of_every_mixture():
    assert set(FACTS) == {name for name, method in METHODS.items() if method.layer == "mixture"}


@pytest.mark.parametrize("method", FACTS)
def test_mixtures(method, tiny_model):
    made = config(method, tiny_model)
    found = (made.scale, made.lora_dropout, made.expert_dropout, made.router_dropout, made.router_init)
    assert found == (pytest.approx(FACTS[method][0]), *FACTS[method][1:])


@pytest.mark.parametrize("method", ["hmora", "gmoe", "samora", "ldmole"])
def test_a_layer_is_the_base_and_the_gated_sum_of_its_experts(method, tiny_model):
    model = shaken(get_peft_model(tiny_model, config(method, tiny_model)))
    layers = {m.name: m for m in model.modules() if isinstance(m, TopicLoraLayer) and len(m.factors("default")[1]) > 1}
    seen = {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    with record_routing(model) as record, torch.no_grad():
        model(input_ids=torch.tensor([[5, 9, 12, 7, 30]]))
        assert layers
        for name, layer in layers.items():
            x, output = seen[name]
            lora_a, lora_b = layer.factors("default")
            expected = layer.base_layer(x)
            for e in range(len(lora_b)):
                gate = record.gates[name][..., e, None]
                expected = expected + FACTS[method][0] * gate * (x @ lora_a[e % len(lora_a)].T @ lora_b[e])
            torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-5)


def test_samoras_scale_is_one_at_any_rank(tiny_model):
    assert config("samora", tiny_model, r=4).scale == 1


@pytest.mark.parametrize("variant", ["perft-r", "perft-e", "perft-d", "perft-s", "topic-perft"])
def test_perft(variant, tiny_model):
    made = config(variant, tiny_model)
    start = "kaiming" if variant == "topic-perft" else "normal"
    assert (made.scale, made.lora_dropout, made.expert_dropout) == (2, 0.05, "own")
    assert made.router_init == start


def test_hmora_learns_b_a_little_faster():
    assert section("hmora").train.loraplus_lr_ratio == 1.2


def test_xlora_has_one_scaling_for_all_layers_as_peft_has(tiny_model, tmp_path):
    get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    made = config("xlora", tiny_model.cpu(), init_from=[str(tmp_path)])
    assert made.layerwise_scalings is XLoraConfig(task_type="CAUSAL_LM").layerwise_scalings is False


def test_a_plain_part_of_a_mixture_draws_one_mask(tiny_model):
    made = config("mixlora", tiny_model)
    assert made.at("model.layers.0.self_attn.q_proj", 0).expert_dropout == "shared"
    assert made.at("model.layers.0.mlp.up_proj", 0).expert_dropout == "own"


def test_a_file_without_the_new_keys_computes_what_it_did(tiny_model, tmp_path):
    """The keys of today, absent: dropout and start concern training alone, so outputs must be equal."""
    torch.manual_seed(0)
    made = config("mola", tiny_model)
    model = get_peft_model(tiny_model, made).eval()
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    values = json.loads(file.read_text())
    for key in ("expert_dropout", "router_init", "router_dropout", "router_version"):
        del values[key]
    file.write_text(json.dumps(values))
    tokens = torch.tensor([[5, 9, 12, 7]])
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        model.load_adapter(tmp_path, "old")
        model.set_adapter("old")
        assert torch.equal(model(input_ids=tokens).logits, expected)
    assert model.peft_config["old"].expert_dropout == "shared"
