"""One tester over a list of PERFT configurations: what peft and transformers promise must hold for each."""

import math

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import (
    TOKENS,
    assert_decoding_equals_the_full_forward,
    assert_loads_bit_equal_by_every_door,
    assert_switch_disable_and_delete,
    logits,
)
from tests.conftest import shaken
from topiclora_cli.adapters import PerftConfig
from topiclora_cli.adapters.perft.layer import UP_VARIANCE, PerftLayer
from topiclora_cli.errors import TopicLoraError


def config(settings):
    return PerftConfig(**{"r": 2, "task_type": "CAUSAL_LM", **settings})


def another(settings):
    """A configuration of another variant, watching the base where the first does not."""
    return config({} if settings.get("variant") == "embedded" else {"variant": "embedded"})


def blocks(model):
    return [module for module in model.modules() if isinstance(module, PerftLayer)]


def test_fresh_adapter_is_as_near_the_base_as_the_published_start(settings, moe_model, beside):
    # |Down h|^2 is about r * 2/r * |h|^2 and Up's entries have variance 1e-12, so with |h|^2 = d behind the norm each
    # entry of an adapter's output has the deviation s * sqrt(1e-12 * 2 d); ten of them, for each adapter summed.
    model = beside(moe_model(), **settings)
    chosen = config(settings)
    summed = chosen.num_adapters if chosen.variant == "dense" else 1
    h = torch.nn.functional.normalize(torch.randn(2, 6, 32), dim=-1) * math.sqrt(32)
    for block in blocks(model):
        with torch.no_grad():
            change = (block(h) - block.get_base_layer()(h)).abs().max()
        assert 0 < change < 10 * chosen.scale * math.sqrt(UP_VARIANCE * 2 * 32 * summed)
    before = logits(moe_model())
    assert (logits(model) - before).abs().max() < 1e-2 * before.abs().max()
    with torch.no_grad():
        for block in blocks(model):
            block.perft_B["default"].weight.zero_()
    assert torch.equal(logits(model), before)


def test_saved_adapter_loads_bit_equal_by_every_door(settings, moe_model, moe_dir, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(moe_dir).eval()
    model = shaken(get_peft_model(base, config(settings)))
    expected = logits(model)
    assert (expected - logits(moe_model())).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    assert_loads_bit_equal_by_every_door(tmp_path, moe_model, expected)


def test_adapters_of_two_variants_switch_disable_and_delete(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    first = logits(model)
    model.add_adapter("second", another(settings))
    model.set_adapter("second")
    second = logits(shaken(model, seed=7))
    assert_switch_disable_and_delete(model, first, second, moe_model)
    watched = "embedded" in model.peft_config["second"].variant
    experts = [block.get_base_layer().experts for block in blocks(model) if block.perft_B]
    assert all(bool(module._forward_pre_hooks) == watched for module in experts)


def test_two_active_adapters_add_up(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    model.add_adapter("second", another(settings))
    model.set_adapter("second")
    shaken(model, seed=7)
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(3))
    outputs = []
    for active in (["default"], ["second"], ["default", "second"]):
        model.base_model.set_adapter(active)
        with torch.no_grad():
            outputs.append(torch.stack([block(x) - block.get_base_layer()(x) for block in blocks(model)]))
    torch.testing.assert_close(outputs[2], outputs[0] + outputs[1], atol=1e-4, rtol=1e-5)


def test_merging_refuses_and_says_why(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    before = logits(model)
    for merge in (model.merge_and_unload, model.merge_adapter, blocks(model)[0].merge):
        with pytest.raises(TopicLoraError, match=r"no dense weight equals them.*Serve the adapter"):
            merge()
    assert torch.equal(logits(model), before)


def test_unload_gives_the_base_back(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    model.add_adapter("second", another(settings))
    base = model.unload()
    assert torch.equal(logits(base), logits(moe_model()))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in base.modules())
    assert not any("perft" in name for name, _ in base.named_modules())


def test_no_gate_sees_the_future(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    changed = TOKENS.clone()
    changed[:, -1] += 1
    torch.testing.assert_close(logits(model)[:, :-1], logits(model, changed)[:, :-1], atol=1e-5, rtol=0)


def test_decoding_with_a_cache_equals_the_full_forward(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    assert_decoding_equals_the_full_forward(model, logits(model)[:, 4:])
