"""What users of peft expect of any method, of PERFT: bookkeeping, training, other doors, other precisions."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

from tests.adapters.helpers import (
    assert_runs_and_trains_in,
    assert_saved_keys_are_free_of_the_adapters_name,
    assert_the_active_adapter_alone_trains,
    assert_training_moves_the_adapter_alone,
    logits,
    train,
    trainable,
)
from tests.conftest import shaken
from topiclora_cli.adapters import PerftConfig

SETTINGS = {
    "routed": {},
    "topic": {"router": "topic", "num_adapters": 4, "train_keys": True},
    "embedded": {"variant": "embedded"},
    "shared": {"variant": "shared", "adapter_type": "parallel"},
}
each_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


def config(**settings):
    return PerftConfig(**{"r": 2, "task_type": "CAUSAL_LM", **settings})


@each_setting
def test_training_lowers_the_loss_and_moves_the_adapter_alone(settings, moe_model, beside):
    assert_training_moves_the_adapter_alone(beside(moe_model(), **settings), below=0.9)


@each_setting
def test_saved_keys_are_ours_and_free_of_the_adapters_name(settings, moe_model, beside, tmp_path):
    model = beside(moe_model(), **settings)
    model.add_adapter("other", config(**settings))
    model.save_pretrained(tmp_path, selected_adapters=["other"])
    expected = get_peft_model_state_dict(model, adapter_name="other")
    assert_saved_keys_are_free_of_the_adapters_name(tmp_path / "other", expected, "perft_")
    saved = json.loads((tmp_path / "other" / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["anchors"], saved["inference_mode"]) == ("PERFT", None, True)


@each_setting
def test_what_trains_after_adding_switching_disabling_and_deleting(settings, moe_model, beside):
    assert_the_active_adapter_alone_trains(beside(moe_model(), **settings), lambda: config(**settings))


@each_setting
@pytest.mark.parametrize("early", [{}, {"low_cpu_mem_usage": True}], ids=["filled", "empty"])
def test_state_dict_round_trip_without_a_peft_model(settings, early, moe_model):
    model = shaken(inject_adapter_in_model(config(**settings), moe_model()))
    expected, state = logits(model), get_peft_model_state_dict(model)
    other = inject_adapter_in_model(config(**settings), moe_model(), **early)
    assert ("meta" in {parameter.device.type for parameter in other.parameters()}) == bool(early)
    assert not set_peft_model_state_dict(other, state, **early).unexpected_keys
    assert torch.equal(logits(other.eval()), expected)


@each_setting
def test_loaded_for_inference_nothing_trains_and_for_training_all_does(settings, moe_model, beside, tmp_path):
    model = shaken(beside(moe_model(), **settings))
    names = trainable(model)
    model.save_pretrained(tmp_path)
    for early in (False, True):
        options = {"low_cpu_mem_usage": early}
        assert not trainable(PeftModel.from_pretrained(moe_model(), tmp_path, **options))
        assert trainable(PeftModel.from_pretrained(moe_model(), tmp_path, is_trainable=True, **options)) == names
    in_place = moe_model()
    in_place.load_adapter(str(tmp_path), is_trainable=True)
    assert {f"base_model.model.{name}" for name in trainable(in_place)} == names


def test_adapters_of_two_variants_load_side_by_side(moe_model, beside, tmp_path):
    expected = {}
    for name, settings in SETTINGS.items():
        model = shaken(beside(moe_model(), **settings), seed=len(name))
        expected[name] = logits(model)
        model.save_pretrained(tmp_path / name)
    first, *others = SETTINGS
    model = PeftModel.from_pretrained(moe_model(), tmp_path / first, adapter_name=first)
    for name in others:
        model.load_adapter(tmp_path / name, adapter_name=name, low_cpu_mem_usage=name == "topic")
    for name in (*reversed(SETTINGS), *SETTINGS):
        model.set_adapter(name)
        assert torch.equal(logits(model), expected[name])


def test_adapters_on_different_blocks(moe_model, beside):
    model = shaken(beside(moe_model(), layers_to_transform=0))
    first = logits(model)
    model.add_adapter("upper", config(variant="embedded", layers_to_transform=[1]))
    assert torch.equal(logits(model), first)
    model.set_adapter("upper")
    assert {name.split(".layers.")[1][0] for name in trainable(model)} == {"1"}
    assert not torch.equal(logits(shaken(model, seed=3)), first)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)


@each_setting
def test_modules_to_save_are_trained_saved_and_reloaded(settings, moe_model, beside, tmp_path):
    model = beside(moe_model(), modules_to_save=["lm_head"], **settings)
    train(model, steps=2)
    expected = logits(model)
    assert not torch.equal(model.get_output_embeddings().weight, moe_model().get_output_embeddings().weight)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(moe_model(), tmp_path)), expected)


@each_setting
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_whole_model_in_another_precision(settings, dtype, moe_model, beside):
    assert_runs_and_trains_in(shaken(beside(moe_model(), **settings)).to(dtype), dtype)


@each_setting
def test_under_autocast_a_model_is_near_itself(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    expected = logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        difference = (logits(model) - expected).abs().mean()
    assert 0 < difference < 0.2 * expected.abs().mean()


def test_counts_status_and_names(moe_model, beside, capsys):
    model = beside(moe_model(), num_adapters=4)
    model.print_trainable_parameters()
    count = 2 * (2 * 4 * 32 * 2 + 4 * 32)  # layers (2 M d r + M d)
    assert f"trainable params: {count:,}" in capsys.readouterr().out
    status = model.get_model_status()
    assert (status.num_adapter_layers, status.trainable_params, status.enabled) == (2, count, True)
    assert [layer.name for layer in model.get_layer_status()] == [f"model.model.layers.{i}.mlp" for i in (0, 1)]
    assert "PerftBlock" in repr(model)
    assert not model.supports_lora_conversion()
