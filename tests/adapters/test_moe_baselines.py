"""Plain LoRA on a sparse base: on attention, on its routers, on its fused experts."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model

from tests.conftest import shaken
from topiclora_cli.adapters.counting import adapted_modules, count_parameters
from topiclora_cli.adapters.moe_blocks import moe_blocks, require_moe_blocks
from topiclora_cli.adapters.presets import make_config
from topiclora_cli.adapters.targets import resolve_moe_role, resolve_targets
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8, 3, 41]])
BASELINES = ("lora-qv", "lora-router", "lora-experts")
SPARSE = ("olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "gpt_oss", "deepseek_v3", "llama4_text")
ROUTERS = {"granitemoe": "router", "gpt_oss": "router", "llama4_text": "router"}


def settings(method, **changes):
    recipe = {"name": "-", "model": {"name": "-"}, "adapter": {"method": method, **changes}}
    return build_recipe(recipe, where=method).adapter.model_dump()


def adapted(method, base, **changes):
    return get_peft_model(base, make_config("lora", settings(method, **changes), base)).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


def fits(method, family):
    # DeepSeek's attention has no q_proj or v_proj, but low-rank projections of other names.
    return (method, family) != ("lora-qv", "deepseek_v3")


CASES = [(method, family) for method in BASELINES for family in SPARSE if fits(method, family)]


@pytest.mark.parametrize("family", SPARSE)
def test_blocks_are_found_on_bare_and_on_adapted_models(family, family_model):
    base = family_model(family)
    found = [(block.name, block.router_name, block.num_experts, block.top_k) for block in moe_blocks(base)]
    parent = {"granitemoe": "block_sparse_moe", "llama4_text": "feed_forward"}.get(family, "mlp")
    layers = [1] if family == "deepseek_v3" else [0, 1]
    top_k = 1 if family == "llama4_text" else 2
    assert found == [(f"model.layers.{n}.{parent}", ROUTERS.get(family, "gate"), 4, top_k) for n in layers]
    routers = [block.router for block in moe_blocks(base)]
    model = adapted("lora-experts", adapted("lora-router", base).get_base_model())
    again = moe_blocks(model.get_base_model())
    assert [(block.name, block.router_name, block.num_experts, block.top_k) for block in again] == found
    assert all(block.router is router for block, router in zip(again, routers, strict=True))


@pytest.mark.parametrize(("method", "family"), CASES)
def test_baseline_starts_as_the_base_trains_and_loads_bit_equal(method, family, family_model, tmp_path):
    expected = logits(family_model(family))
    model = adapted(method, family_model(family))
    assert torch.equal(logits(model), expected)
    model.train()
    loss = model(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        assert ("lora_" in name) == parameter.requires_grad
        assert ("lora_B" not in name) or parameter.grad.abs().sum() > 0, name
    shaken(model)
    assert not torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(family_model(family), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
