"""LoRA that starts by altering the base: what is written belongs to the base as it was, and what is read goes on."""

import json

import pytest
import torch
from peft import EvaConfig, LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.adapters.helpers import logits
from tests.conftest import SMALL, shaken
from topiclora_cli.data import Encoded
from topiclora_cli.data.row import Row
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.precision import store_weights_in_bfloat16
from topiclora_cli.recipe.load import build_recipe
from topiclora_cli.training.attach import attach
from topiclora_cli.training.eva import start_from_activations
from topiclora_cli.training.saving import TENSORS, read_adapter, write_adapter

STARTS = ["pissa", "pissa_niter_4", "olora"]
TARGETS = ["q_proj", "down_proj"]


def fresh(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def started(folder, start, **settings):
    settings = {"r": 3, "lora_alpha": 5, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **settings}
    torch.manual_seed(0)
    return attach(fresh(folder), LoraConfig(init_lora_weights=start, **settings)).eval()


@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["plain", "rslora", "dora"])
@pytest.mark.parametrize("start", STARTS)
def test_what_is_written_is_a_plain_lora_on_the_untouched_base(start, variant, tiny_model_dir, tmp_path):
    model = started(tiny_model_dir, start, **variant)
    base = logits(fresh(tiny_model_dir))
    torch.testing.assert_close(logits(model), base, atol=1e-5, rtol=1e-4)
    expected = logits(shaken(model))
    write_adapter(model, tmp_path)
    opened = PeftModel.from_pretrained(fresh(tiny_model_dir), tmp_path)
    torch.testing.assert_close(logits(opened), expected, atol=1e-4, rtol=1e-4)
    with opened.disable_adapter():
        assert torch.equal(logits(opened), base)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["init_lora_weights"]) == (6, True)
    torch.testing.assert_close(logits(opened.merge_and_unload()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", STARTS)
def test_what_is_read_is_what_was_written_to_the_bit(start, tiny_model_dir, tmp_path):
    model = shaken(started(tiny_model_dir, start))
    write_adapter(model, tmp_path / "one")
    again = started(tiny_model_dir, start)
    read_adapter(again, tmp_path / "one")
    assert torch.equal(logits(again), logits(model))
    write_adapter(again, tmp_path / "two")
    one, two = (load_file(tmp_path / name / TENSORS) for name in ("one", "two"))
    assert all(torch.equal(two[key], tensor) for key, tensor in one.items())


def test_a_run_whose_decomposition_came_out_otherwise_goes_on_from_the_one_that_was_written(tiny_model_dir, tmp_path):
    model = shaken(started(tiny_model_dir, "pissa"))
    write_adapter(model, tmp_path / "one")
    other = started(tiny_model_dir, "pissa_niter_0")
    read_adapter(other, tmp_path / "one")
    torch.testing.assert_close(logits(other), logits(model), atol=1e-5, rtol=1e-4)
    write_adapter(other, tmp_path / "two")
    one, two = (load_file(tmp_path / name / TENSORS) for name in ("one", "two"))
    assert all(torch.equal(two[key], tensor) for key, tensor in one.items())


def test_other_starts_are_written_as_they_are(tiny_model_dir, tmp_path):
    model = shaken(started(tiny_model_dir, "gaussian"))
    write_adapter(model, tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(tiny_model_dir), tmp_path)), logits(model))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 3


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_rank_beyond_the_weight_is_refused(start, tiny_model_dir):
    with pytest.raises(
        TopicLoraError, match=rf"init_lora_weights: {start} finds 32 directions in .*, but adapter.r is 40"
    ):
        started(tiny_model_dir, start, r=40)


def test_a_tied_head_is_refused(tiny_model_dir):
    base = fresh(tiny_model_dir)
    base.lm_head.weight = base.get_input_embeddings().weight
    config = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights="pissa")
    with pytest.raises(TopicLoraError, match="would alter the embedding, too, to which lm_head is tied"):
        attach(base, config)


def gpt2():
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **SMALL, **sizes)).eval()


def test_olora_on_a_conv1d_is_refused():
    config = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights="olora", fan_in_fan_out=True)
    with pytest.raises(TopicLoraError, match="wrong way round"):
        attach(gpt2(), config)


def test_pissa_on_a_conv1d(tmp_path):
    config = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights="pissa", fan_in_fan_out=True)
    model = attach(gpt2(), config)
    expected = logits(shaken(model))
    write_adapter(model, tmp_path)
    opened = PeftModel.from_pretrained(gpt2(), tmp_path)
    torch.testing.assert_close(logits(opened), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("start", "settings"), [("orthogonal", {"r": 3}), ("mica", {"r": 40}), ("pissa", {})])
def test_what_peft_refuses_is_one_line_that_names_the_key(start, settings, tiny_model_dir):
    base = fresh(tiny_model_dir)
    if start == "pissa":
        layer = base.model.layers[0].mlp.down_proj
        layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    config = LoraConfig(**{"r": 2, "target_modules": TARGETS, "init_lora_weights": start, **settings})
    with pytest.raises(TopicLoraError, match=f"^adapter.init_lora_weights: {start}: ") as error:
        attach(base, config)
    assert "\n" not in str(error.value)


def test_eva_reads_a_base_whose_weights_wait_in_16_bits_as_training_does(tiny_model_dir):
    base = fresh(tiny_model_dir)
    store_weights_in_bfloat16(base)
    eva = EvaConfig(rho=1.0, use_label_mask=False)
    model = attach(base, LoraConfig(r=2, target_modules=TARGETS, init_lora_weights="eva", eva_config=eva))
    example = Encoded(row=Row(prompt="", completion=""), input_ids=list(range(3, 30)), prompt_length=4)
    start_from_activations(model, [example], pad_token_id=0, batch_size=6, seed=0, bfloat16=True)
    lora_a = model.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    torch.testing.assert_close(lora_a @ lora_a.T, torch.eye(2), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"adapter": {"init_lora_weights": "loftq"}}, "loftq replaces the base's weights.*use pissa, olora or eva"),
        ({"adapter": {"init_lora_weights": "corda"}}, "corda reads statistics"),
        ({"adapter": {"init_lora_weights": "pisa"}}, "unknown start.*'pissa'"),
        ({"adapter": {"init_lora_weights": "pissa"}, "model": {"name": "m", "quantization": "4bit"}}, "quantization"),
        (
            {"adapter": {"method": "topiclora", "init": "svd"}, "model": {"name": "m", "quantization": "8bit"}},
            "adapter.init: svd needs the base's weights as plain numbers, which model.quantization packs",
        ),
        (
            {"adapter": {"init_lora_weights": "orthogonal"}, "model": {"name": "m", "quantization": "4bit"}},
            "orthogonal needs the base's weights as plain numbers",
        ),
        (
            {"adapter": {"init_lora_weights": "eva"}, "data": {"streaming": True}, "train": {"max_steps": 2}},
            "leave out data.streaming",
        ),
        ({"adapter": {"method": "topiclora", "init_lora_weights": "pissa"}}, "means nothing to topiclora"),
    ],
)
def test_recipes_that_cannot_start_so(sections, message):
    values = {"name": "x", "model": {"name": "m"}, **sections}
    values["adapter"] = {"method": "lora", **values["adapter"]}
    with pytest.raises(TopicLoraError, match=message):
        build_recipe(values, where="here")


def test_eva_starts_in_the_directions_in_which_inputs_vary_most(tiny_model_dir):
    model = started(tiny_model_dir, "eva", r=2, eva_config=EvaConfig(rho=1.0, use_label_mask=False))
    ids = [[(5 * number + place) % 60 + 3 for place in range(8)] for number in range(6)]
    examples = [Encoded(row=Row(prompt="", completion=""), input_ids=each, prompt_length=4) for each in ids]
    start_from_activations(model, examples, pad_token_id=0, batch_size=6, seed=0)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    lora_a = layer.lora_A["default"].weight
    torch.testing.assert_close(lora_a @ lora_a.T, torch.eye(2), atol=1e-4, rtol=0)
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits(model, torch.tensor(ids))
    handle.remove()
    rows = seen[0].flatten(0, 1)
    rows = rows - rows.mean(0)
    most = torch.linalg.svdvals(rows)[:2].square().sum()
    assert (rows @ lora_a.T).square().sum() > 0.9 * most
    with pytest.raises(TopicLoraError, match="eva finds no batch of 2 tokens"):
        start_from_activations(model, [], pad_token_id=0, batch_size=6, seed=0)
