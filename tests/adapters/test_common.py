"""One tester over a list of adapter configurations: what peft and transformers promise must hold for each."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import (
    TOKENS,
    assert_decoding_equals_the_full_forward,
    assert_loads_bit_equal_by_every_door,
    assert_same_gradients,
    assert_switch_disable_and_delete,
    logits,
    without_and_with_checkpointing,
)
from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, prompt_tokens
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.training.attach import solve

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CONFIGS = {
    "topic-dense": {},
    "topic-top2": {"top_k": 2},
    "topic-top1-trained-keys": {"top_k": 1, "train_keys": True},
    "topic-anchored": {"top_k": 2, "anchors": torch.randn(4, 9, generator=torch.Generator().manual_seed(1)).tolist()},
    "linear-dense": {"router": "linear"},
    "linear-top2-shared-a": {"router": "linear", "top_k": 2, "shared_a": True},
    "top-p": {"router": "linear", "top_p": 0.6},
    "cosine": {"router": "cosine", "shared_a": True, "router_temperature": 0.8},
    "threshold": {"router": "threshold"},
    "sparsegen": {"router": "sparsegen", "router_width": 6, "router_temperature": 9.0},
    "hierarchical-top2": {"router": "hierarchical", "top_k": 2, "router_scope": "group"},
    "graph-top2": {"router": "graph", "top_k": 2, "router_width": 6},
    "uniform": {"router": "uniform"},
    "static": {"router": "static"},
    "topic-top2-by-prompt": {"top_k": 2, "granularity": "prompt"},
    "group-scope": {"top_k": 2, "router_scope": "group"},
    "block-scope": {"router": "linear", "router_scope": "block"},
    "layer-scope": {"top_k": 2, "router_scope": "layer"},
    "layer-scope-by-prompt": {"router": "linear", "router_scope": "layer", "granularity": "prompt"},
    "per-layer": {"router": "linear", "top_k": 2, "experts_per_layer": [2, 5], "ranks_per_layer": [3, 2]},
    "ffn-top2": {"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn", "plain_modules": ATTENTION},
    "ffn-top1-anchored": {"top_k": 1, "router_scope": "layer", "mixing": "ffn"},
    "rslora-two-targets": {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
    "upper-layer-only": {"layers_to_transform": [1], "target_modules": ["v_proj"]},
    "dropout": {"lora_dropout": 0.1},
    "plain-kernel": {"top_k": 2, "kernel": "plain"},
    "sparse-kernel": {"r": 4, "top_k": 2, "kernel": "sparse"},
    "total-top1": {"top_k": 1, "scaling": "total", "lora_alpha": 4.0},
    "probabilities": {"router": "linear", "top_k": 2, "gate_weights": "probability"},
    "probabilities-hierarchical": {"router": "hierarchical", "top_k": 2, "gate_weights": "probability"},
    "constant": {"top_k": 2, "gate_weights": "constant", "shared_experts": 1, "scaling": "total"},
    "constant-sparse": {"r": 4, "top_k": 2, "gate_weights": "constant", "kernel": "sparse"},
    "constant-ffn": {"top_k": 2, "router_scope": "layer", "mixing": "ffn", "gate_weights": "constant"},
    "shared-experts": {"top_k": 2, "shared_experts": 2, "router_scope": "layer"},
    "shared-experts-in-the-softmax": {"top_k": 1, "shared_experts": 3, "shared_gate": "softmax", "train_keys": True},
    "shared-experts-by-prompt": {
        **{"router": "linear", "top_p": 0.6, "shared_a": True, "granularity": "prompt"},
        **{"shared_experts": 1, "shared_gate": "softmax"},
    },
    "shared-experts-sparse": {"r": 4, "top_k": 2, "shared_experts": 2, "kernel": "sparse"},
    "shared-experts-ffn": {
        **{"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn", "plain_modules": ATTENTION},
        "shared_experts": 2,
    },
}
PRESETS = {name: {"preset": name} for name, method in METHODS.items() if method.layer == "mixture"}
CONFIGS |= PRESETS
pytestmark = pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS.keys())


def make(settings, model=None, **changes):
    """A configuration; for a preset, what a recipe that names it makes on `model`, with rank 2 and without dropout."""
    if "preset" not in settings:
        small = {"r": 2, "num_experts": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        return TopicLoraConfig(**{**small, **settings, **changes})
    dropouts = {"lora_dropout", "router_dropout"} & METHODS[settings["preset"]].adapter.keys()
    adapter = {"method": settings["preset"], "r": 2, **dict.fromkeys(dropouts, 0.0)}
    if settings["preset"] in ("gmoe", "ldmole"):
        adapter["router_width"] = 6
    if settings["preset"] == "ldmole":
        adapter["router_temperature"] = 9.0  # random weights would make it certain of one expert, without a gradient
    recipe = build_recipe({"name": "x", "model": {"name": "x"}, "adapter": adapter}, where="x")
    return solve(recipe.adapter, model)


def fresh(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


def test_fresh_adapter_changes_nothing(settings, tiny_model, tiny_model_dir):
    config = make(settings, tiny_model)
    model = get_peft_model(tiny_model, config).eval()
    # Mixing after the non-linearity averages equal rows, which rounds.
    tolerance = 1e-6 if config.mixing == "ffn" else 0
    torch.testing.assert_close(logits(model), logits(fresh(tiny_model_dir)), atol=tolerance, rtol=0)


def test_saved_adapter_loads_bit_equal_by_every_door(settings, tiny_model, tiny_model_dir, tmp_path):
    model = shaken(get_peft_model(tiny_model, make(settings, tiny_model)))
    expected = logits(model)
    assert not torch.equal(expected, logits(fresh(tiny_model_dir)))
    model.save_pretrained(tmp_path)
    assert_loads_bit_equal_by_every_door(tmp_path, lambda: fresh(tiny_model_dir), expected)


def test_several_adapters_switch_disable_and_delete(settings, tiny_model, tiny_model_dir):
    model = shaken(get_peft_model(tiny_model, make(settings, tiny_model)))
    first = logits(model)
    model.add_adapter("second", make(settings, fresh(tiny_model_dir)))
    model.set_adapter("second")
    shaken(model, seed=7)
    second = logits(model)
    assert_switch_disable_and_delete(model, first, second, lambda: fresh(tiny_model_dir))


def test_merging_refuses_and_names_the_ways_out(settings, tiny_model):
    model = shaken(get_peft_model(tiny_model, make(settings, tiny_model)))
    before = logits(model)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(TopicLoraError, match="topiclora merge"):
            merge()
    assert torch.equal(logits(model), before)


def test_unload_gives_the_base_back(settings, tiny_model, tiny_model_dir):
    model = shaken(get_peft_model(tiny_model, make(settings, tiny_model)))
    assert torch.equal(logits(model.unload()), logits(fresh(tiny_model_dir)))


def test_no_gate_sees_the_future(settings, tiny_model):
    model = shaken(get_peft_model(tiny_model, make(settings, tiny_model)))
    changed = TOKENS.clone()
    changed[:, -1] += 1
    # Rows sorted by expert are multiplied in other company, which rounds.
    tolerance = 1e-6 if settings.get("kernel") == "sparse" else 0
    torch.testing.assert_close(logits(model)[:, :-1], logits(model, changed)[:, :-1], atol=tolerance, rtol=0)


def test_decoding_with_a_cache_equals_the_full_forward(settings, tiny_model):
    model = shaken(get_peft_model(tiny_model, make(settings, tiny_model)))
    with prompt_tokens(torch.arange(6).expand(2, -1) < 4):
        full = logits(model)[:, 4:]
    assert_decoding_equals_the_full_forward(model, full)


def test_padding_side_does_not_matter(settings, tiny_model):
    """In float64: a router that divides by a hundredth lets float32's rounding be seen."""
    model = shaken(get_peft_model(tiny_model, make(settings, tiny_model))).double()
    pad = torch.full((2, 3), 2)
    ones, zeros = torch.ones_like(TOKENS), torch.zeros_like(pad)
    left = logits(
        model,
        torch.cat([pad, TOKENS], 1),
        attention_mask=torch.cat([zeros, ones], 1),
        position_ids=torch.cat([zeros, torch.arange(6).expand(2, -1)], 1),
    )[:, 3:]
    right = logits(model, torch.cat([TOKENS, pad], 1), attention_mask=torch.cat([ones, zeros], 1))[:, :6]
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_only_adapter_parameters_train_and_all_of_them_do(settings, tiny_model):
    model = get_peft_model(tiny_model, make(settings, tiny_model))
    shaken(model).train()
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("topiclora_" in name for name in trainable)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent


def test_checkpointing_leaves_gradients_and_recorded_routing_unchanged(settings, tiny_model):
    if settings.get("lora_dropout"):
        pytest.skip("dropout draws anew")
    model = shaken(get_peft_model(tiny_model, make(settings, tiny_model))).train()
    (plain, _), (again, _) = without_and_with_checkpointing(model)
    assert_same_gradients(again, plain)


def test_bfloat16_base_keeps_a_float32_adapter(settings, tiny_model_dir):
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
    model = shaken(get_peft_model(base, make(settings, base)))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16
