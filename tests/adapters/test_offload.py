"""Bases whose layers are offloaded, hooked or replaced: what peft's LoRA computes there, so does a mixture."""

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS, logits
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
from topiclora_cli.adapters.fused import can_fuse
from topiclora_cli.errors import TopicLoraError

SETTINGS = {
    "fused": {},
    "plain": {"kernel": "plain"},
    "sparse": {"kernel": "sparse", "r": 4, "top_k": 2},
    "layer": {"router": "linear", "router_scope": "layer"},
    "cosine": {"router": "cosine", "shared_a": True},
    "ffn": {"router": "linear", "router_scope": "block", "mixing": "ffn", "top_k": 2},
    "prompt": {"granularity": "prompt"},
}
each_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
ON_DISK = {f"model.{name}": "cpu" for name in ("embed_tokens", "layers.0", "norm", "rotary_emb")} | {
    "model.layers.1": "disk",
    "lm_head": "cpu",
}


class Doubled(ModelHook):
    """accelerate's kind of hook, which puts another forward over the module's."""

    def post_forward(self, module, output):
        return output * 2


@pytest.fixture
def on_disk(family_model, tmp_path, monkeypatch):
    """A function: a family's name -> a model of which a layer lies on disk."""
    # peft loses the first slash of the folder to which it writes such a layer's adapter.
    monkeypatch.chdir(tmp_path)

    def load(name):
        family_model(name).save_pretrained(tmp_path / name)
        folder = tmp_path / f"{name}-offload"
        return AutoModelForCausalLM.from_pretrained(tmp_path / name, device_map=ON_DISK, offload_folder=folder)

    return load


@each_setting
def test_a_base_partly_on_disk(settings, family_model, adapted, shaken, on_disk, tmp_path):
    model = shaken(adapted(family_model("llama"), **settings))
    model.save_pretrained(tmp_path / "adapter")
    device_map = {f"base_model.model.{name}": place for name, place in ON_DISK.items()}
    folder = tmp_path / "peft-offload"
    loaded = PeftModel.from_pretrained(
        on_disk("llama"), tmp_path / "adapter", device_map=device_map, offload_folder=folder
    )
    assert any(parameter.is_meta for name, parameter in loaded.named_parameters() if "topiclora_A" in name)
    torch.testing.assert_close(logits(loaded.eval()), logits(model))


@each_setting
def test_a_model_offloaded_whole(settings, family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama"), **settings))
    expected = logits(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    torch.testing.assert_close(logits(model), expected)


@pytest.mark.parametrize("variant", ["routed", "embedded", "dense"])
def test_perft_offloaded_whole(variant, family_model, shaken):
    model = shaken(get_peft_model(family_model("olmoe"), PerftConfig(variant=variant, r=2, task_type="CAUSAL_LM")))
    expected = logits(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(logits(model), expected)


def test_perft_says_that_it_needs_its_blocks_in_memory(on_disk):
    with pytest.raises(TopicLoraError, match="offloaded to the disk"):
        get_peft_model(on_disk("olmoe"), PerftConfig(task_type="CAUSAL_LM"))


@pytest.mark.parametrize("config", [TopicLoraConfig, PerftConfig])
def test_an_adapter_without_values_says_so(config, family_model):
    model = get_peft_model(family_model("olmoe"), config(r=2, target_modules="all-linear"), low_cpu_mem_usage=True)
    with pytest.raises(TopicLoraError, match="meta device, without values"):
        model(input_ids=TOKENS)


def doubled_by_accelerate(linear):
    add_hook_to_module(linear, Doubled())
    return lambda: None


def doubled_by_a_forward(linear):
    forward = linear.forward
    linear.forward = lambda x: forward(x) * 2
    return lambda: None


def doubled_by_a_hook(linear):
    return linear.register_forward_hook(lambda module, args, output: output * 2).remove


def doubled_by_a_hook_on_all(linear):
    return register_module_forward_hook(lambda module, args, output: output * 2 if module is linear else output).remove


@pytest.mark.parametrize(
    "double", [doubled_by_accelerate, doubled_by_a_forward, doubled_by_a_hook, doubled_by_a_hook_on_all]
)
@pytest.mark.parametrize("kernel", ["plain", "auto", "sparse"])
def test_what_was_put_over_a_base_linear_counts(kernel, double, family_model, adapted):
    settings = {"kernel": kernel, "r": 4, "top_k": 2}
    base = family_model("llama")
    undo = double(base.model.layers[0].mlp.up_proj)
    try:
        expected = logits(base)
        assert not torch.allclose(expected, logits(family_model("llama")), atol=1e-3)
        model = adapted(base, **settings)  # fresh, so that it changes nothing
        torch.testing.assert_close(logits(model), expected)
    finally:
        undo()


def test_a_hook_on_a_router_runs(family_model, adapted, shaken):
    model, ran = shaken(adapted(family_model("llama"), target_modules=["q_proj"])), []
    expected = logits(model)
    router = model.base_model.model.model.layers[0].self_attn.q_proj.topiclora_router["default"]
    router.register_forward_hook(lambda *_: ran.append(True))
    torch.testing.assert_close(logits(model), expected)
    assert ran


def test_an_ordinary_linear_is_fused():
    linear = torch.nn.Linear(4, 4).requires_grad_(False)
    x, lora_a = torch.zeros(2, 4), torch.zeros(2, 2, 4)
    assert can_fuse(x, lora_a, linear)
    assert not can_fuse(x, lora_a, torch.nn.Linear(4, 4, device="meta").requires_grad_(False))


def test_lora_on_the_same_base(family_model, on_disk, shaken, tmp_path):
    """What the others are held against: peft's own LoRA runs on a base partly on disk."""
    model = shaken(get_peft_model(family_model("llama"), LoraConfig(target_modules="all-linear")))
    model.save_pretrained(tmp_path / "adapter")
    device_map = {f"base_model.model.{name}": place for name, place in ON_DISK.items()}
    loaded = PeftModel.from_pretrained(
        on_disk("llama"), tmp_path / "adapter", device_map=device_map, offload_folder=tmp_path / "peft-offload"
    )
    assert torch.equal(logits(loaded.eval()), logits(model))
