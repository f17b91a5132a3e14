"""Folders that stock transformers loads, routed: the same function as the adapter, where topiclora is not installed."""

import json
import subprocess
import sys

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS, logits
from tests.conftest import shaken
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.self_loading import routed_parts, write_self_loading

NAMES = ["q_proj", "k_proj", "down_proj"]


def written(model, base, folder):
    write_self_loading(base, routed_parts(model), folder, shard="5GB")
    return folder


def loaded(folder, **settings):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **settings).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 2},
        {"top_k": 1, "scaling": "total", "router_temperature": 0.5},
        {"top_p": 0.7, "router": "linear"},
        {"top_k": 2, "gate_weights": "constant", "router": "linear", "router_temperature": 2.0},
        {"router_scope": "group", "top_k": 2},
        {"router_scope": "layer", "ranks_per_layer": [1, 3]},
        {"shared_a": True, "router": "cosine"},
        {"router": "threshold"},
        {"router": "sparsegen"},
        {"router": "graph"},
        {"router": "uniform"},
        {"router": "static", "top_k": 2},
        {"shared_experts": 1, "top_k": 2},
        {"shared_experts": 2, "shared_gate": "softmax", "top_k": 2, "router_temperature": 0.7},
        {"init": "svd"},
        {"plain_modules": ["q_proj"], "top_k": 2},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=str,
)
def test_the_folder_routes_as_the_adapter_does(settings, tiny_model_dir, tmp_path):
    torch.manual_seed(0)
    base, other = (AutoModelForCausalLM.from_pretrained(tiny_model_dir) for _ in range(2))
    model = shaken(get_peft_model(base, TopicLoraConfig(r=2, num_experts=4, target_modules=NAMES, **settings)))
    expected = logits(model)
    again = loaded(written(model, other, tmp_path))
    torch.testing.assert_close(logits(again), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tiny_model_dir)), expected, atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 1},
        {"adapter_type": "parallel", "shared_adapters": 1},
        {"router": "topic"},
        {"router_weight_source": "pretrained"},
        {"variant": "embedded"},
        {"variant": "dense", "num_adapters": 2},
        {"variant": "shared"},
    ],
    ids=str,
)
def test_perft_ships_too(settings, tiny_moe_dir, tmp_path):
    torch.manual_seed(0)
    base, other = (AutoModelForCausalLM.from_pretrained(tiny_moe_dir) for _ in range(2))
    model = shaken(get_peft_model(base, PerftConfig(**{"r": 2, "num_adapters": 4, **settings})))
    expected = logits(model)
    torch.testing.assert_close(logits(loaded(written(model, other, tmp_path))), expected, atol=1e-6, rtol=1e-6)


def test_a_process_without_topiclora_generates_the_same(tiny_model_dir, tmp_path):
    base, other = (AutoModelForCausalLM.from_pretrained(tiny_model_dir) for _ in range(2))
    model = shaken(get_peft_model(base, TopicLoraConfig(r=2, num_experts=4, top_k=2, target_modules=NAMES)))
    expected = model.generate(input_ids=TOKENS, max_new_tokens=6, do_sample=False)
    folder = written(model, other, tmp_path / "model")
    code = (
        "import sys, torch\nsys.modules['topiclora_cli'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        f"found = model.generate(input_ids=torch.tensor({TOKENS.tolist()}), max_new_tokens=6, do_sample=False)\n"
        f"torch.save(found, {str(tmp_path / 'found')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "found"), expected)


def test_nobody_loads_it_as_its_base_without_a_word(tiny_model_dir, tmp_path):
    base, other = (AutoModelForCausalLM.from_pretrained(tiny_model_dir) for _ in range(2))
    model = shaken(get_peft_model(base, TopicLoraConfig(r=2, num_experts=4, target_modules=NAMES)))
    folder = written(model, other, tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "routed_llama"


def test_routers_stay_in_float32_beside_a_base_in_16_bits(tiny_model_dir, tmp_path):
    base, other = (AutoModelForCausalLM.from_pretrained(tiny_model_dir) for _ in range(2))
    model = shaken(get_peft_model(base, TopicLoraConfig(r=2, num_experts=4, top_k=2, target_modules=NAMES)))
    again = loaded(written(model, other, tmp_path), dtype=torch.bfloat16)
    kinds = {name.rpartition(".")[2]: p.dtype for name, p in again.named_parameters() if "routed" in name}
    assert kinds == {"A": torch.bfloat16, "B": torch.bfloat16, "weight": torch.float32, "bias": torch.float32}
    assert logits(again).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"granularity": "prompt"}, "where the prompt ends"),
        ({"mixing": "ffn", "router_scope": "block", "target_modules": ["gate_proj", "up_proj", "down_proj"]}, "ffn"),
    ],
)
def test_what_no_folder_can_route_is_refused_with_the_reason(settings, message, tiny_model):
    settings = {"target_modules": NAMES, **settings}
    model = get_peft_model(tiny_model, TopicLoraConfig(r=2, num_experts=4, **settings))
    with pytest.raises(TopicLoraError, match=message):
        routed_parts(model)
