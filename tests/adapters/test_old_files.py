"""Adapters saved in the first format, whose A and B were bare parameters, load as what they were by every door."""

import json
import re

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from tests.adapters.helpers import by_load_adapter, by_peft, by_peft_empty_first, logits, rewrite
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig, old_files
from topiclora_cli.errors import TopicLoraError

LAYERS = [f"base_model.model.model.layers.{number}" for number in range(2)]


@pytest.fixture
def old_mixture(family_model, tmp_path):
    """A folder written key by key as the first format was, and the model's function in plain arithmetic."""
    family_model("llama").save_pretrained(tmp_path / "base")
    generator = torch.Generator().manual_seed(3)
    state = {}
    for layer in LAYERS:
        name = f"{layer}.self_attn.q_proj"
        state[f"{name}.topiclora_A"] = torch.randn(4, 2, 32, generator=generator)
        state[f"{name}.topiclora_B"] = torch.randn(4, 2, 32, generator=generator)
        state[f"{name}.topiclora_router.weight"] = torch.randn(4, 32, generator=generator)
        state[f"{name}.topiclora_router.bias"] = torch.randn(4, generator=generator)
        state[f"{name}.topiclora_router.keys"] = torch.randn(4, 4, generator=generator)
    write(tmp_path / "adapter", state, "TOPICLORA", tmp_path / "base", r=2, num_experts=4, target_modules=["q_proj"])
    return tmp_path / "adapter", state


def write(folder, state, kind, base, **settings):
    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": kind, "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def in_plain_arithmetic(base, state):
    """The base with hooks that add the mixture as the equations say, from the file's own tensors."""
    for layer in range(2):
        a, b, weight, bias, keys = (
            state[f"{LAYERS[layer]}.self_attn.q_proj.topiclora_{part}"]
            for part in ("A", "B", "router.weight", "router.bias", "router.keys")
        )

        def add(module, args, output, a=a, b=b, weight=weight, bias=bias, keys=keys):
            x = args[0]
            gates = ((x @ weight.T @ keys.T) / 4**0.5 + bias).softmax(-1)
            experts = torch.einsum("bsd,erd,ero->bseo", x, a, b)
            return output + 16 / 2 * torch.einsum("bse,bseo->bso", gates, experts)

        base.model.layers[layer].self_attn.q_proj.register_forward_hook(add)
    return base


def by_auto_peft(folder, _):
    return AutoPeftModelForCausalLM.from_pretrained(folder)


def by_auto_model(folder, _):
    return AutoModelForCausalLM.from_pretrained(folder)


def by_second_adapter(folder, base):
    model = PeftModel.from_pretrained(base(), folder, adapter_name="my-name")
    model.load_adapter(folder, "weight_A")
    model.set_adapter("weight_A")
    return model


def by_whole_state(folder, base):
    """A model's whole state dict, as torch.save kept it in the first format."""
    model = by_peft(folder, base)
    state = {
        re.sub(r"((?:topiclora|perft)_[AB]\.default)\.weight$", r"\1", key): tensor.clone()
        for key, tensor in model.state_dict().items()
    }
    for parameter in model.parameters():
        parameter.data.zero_()
    model.load_state_dict(state)
    return model


def by_resuming(folder, base):
    """What transformers' Trainer does with a checkpoint: into the adapter that is there."""
    settings = {"r": 2, "num_experts": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(base(), TopicLoraConfig(**settings))
    model.load_adapter(folder, "default", is_trainable=True)
    return model


DOORS = [
    by_resuming,
    by_peft,
    by_peft_empty_first,
    by_load_adapter,
    by_auto_peft,
    by_auto_model,
    by_second_adapter,
    by_whole_state,
]


@pytest.mark.parametrize("door", DOORS)
def test_a_mixture_of_the_first_format(door, old_mixture, family_model):
    folder, state = old_mixture
    expected = logits(in_plain_arithmetic(family_model("llama"), state))
    model = door(folder, lambda: family_model("llama")).eval()
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert (logits(model) - logits(family_model("llama"))).abs().max() > 0.1


def test_saved_again_it_is_of_todays_format(old_mixture, family_model, tmp_path):
    folder, state = old_mixture
    by_peft(folder, lambda: family_model("llama")).save_pretrained(tmp_path / "again")
    now = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert now.keys() == {key + ".weight" if key.endswith(("_A", "_B")) else key for key in state}
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["format_version"] == old_files.FORMAT


@pytest.mark.parametrize("door", [by_peft, by_peft_empty_first, by_load_adapter])
def test_perft_of_the_first_format(door, family_model, tmp_path):
    block, generator = f"{LAYERS[0]}.mlp", torch.Generator().manual_seed(3)
    state = {f"{block}.perft_{part}": torch.randn(3, 2, 32, generator=generator) for part in "AB"}
    settings = {"variant": "dense", "num_adapters": 3, "r": 2, "layers_to_transform": [0]}
    write(tmp_path / "adapter", state, "PERFT", tmp_path / "base", **settings)
    model = door(tmp_path / "adapter", lambda: family_model("olmoe"))
    base = family_model("olmoe")
    down, up = state[f"{block}.perft_A"], state[f"{block}.perft_B"]
    base.model.layers[0].mlp.register_forward_hook(
        lambda module, args, output: output + 8 * torch.einsum("bsd,erd,ero->bso", args[0], down, up)
    )
    torch.testing.assert_close(logits(model.eval()), logits(base), atol=1e-4, rtol=1e-4)


def test_transformers_renames_each_only_once():
    old_files.have_transformers_rename()
    patterns = [p for entry in get_checkpoint_conversion_mapping("legacy") for p in entry.source_patterns]
    assert sum("topiclora_" in p for p in patterns) == sum("perft_" in p for p in patterns) == 1


def test_files_of_a_later_format_are_refused(old_mixture, family_model):
    rewrite(old_mixture[0], format_version=old_files.FORMAT + 1)
    with pytest.raises(TopicLoraError, match="of format 3"):
        by_peft(old_mixture[0], lambda: family_model("llama"))


@pytest.mark.parametrize("config", [TopicLoraConfig(), PerftConfig()])
def test_a_configuration_says_its_format(config):
    assert config.to_dict()["format_version"] == old_files.FORMAT


def test_state_dict_round_trip_bears_no_adapters_name(family_model, adapted):
    state = get_peft_model_state_dict(adapted(family_model("llama"), target_modules=["q_proj"]))
    assert f"{LAYERS[0]}.self_attn.q_proj.topiclora_A.weight" in state
