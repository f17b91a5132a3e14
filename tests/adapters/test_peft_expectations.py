"""What users of peft expect of any method: state, saving, switching, training, copying, bookkeeping."""

import copy
import json

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.utils import infer_device

from tests.adapters.helpers import (
    TOKENS,
    assert_runs_and_trains_in,
    assert_same_gradients,
    assert_saved_keys_are_free_of_the_adapters_name,
    assert_the_active_adapter_alone_trains,
    assert_training_moves_the_adapter_alone,
    copies_of,
    gradients,
    interrupted,
    logits,
    train,
    trainable,
)
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.errors import TopicLoraError

SETTINGS = {
    "linear-scope": {"top_k": 2},
    "layer-scope": {"router": "linear", "router_scope": "layer"},
    "by-prompt": {"granularity": "prompt", "train_keys": True},
    "ffn": {"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn"},
}
each_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


def config(**settings):
    return TopicLoraConfig(
        **{"r": 2, "num_experts": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    )


def kinds(model):
    """Which parts train, as router, A, B or other."""
    return {n.split("topiclora_")[1].split(".")[0] if "topiclora_" in n else "other" for n in trainable(model)}


@each_setting
def test_training_lowers_the_loss_and_moves_the_adapter_alone(settings, family_model, adapted):
    assert_training_moves_the_adapter_alone(adapted(family_model("llama"), **settings), below=0.96)


@each_setting
def test_saved_keys_are_ours_and_free_of_the_adapters_name(settings, family_model, adapted, tmp_path):
    model = adapted(family_model("llama"), **settings)
    model.add_adapter("other", config(**settings))
    model.save_pretrained(tmp_path, selected_adapters=["other"])
    assert {path.name for path in tmp_path.iterdir()} == {"other", "README.md"}
    expected = get_peft_model_state_dict(model, adapter_name="other")
    assert_saved_keys_are_free_of_the_adapters_name(tmp_path / "other", expected, "topiclora_")
    saved = json.loads((tmp_path / "other" / "adapter_config.json").read_text())
    assert saved["peft_type"] == "TOPICLORA"
    assert saved["inference_mode"] is True


@each_setting
def test_several_adapters_load_side_by_side(settings, family_model, adapted, shaken, tmp_path):
    expected = {}
    for seed, name in enumerate(("one", "two")):
        model = shaken(adapted(family_model("llama"), **settings, num_experts=4 + seed), seed)
        expected[name] = logits(model)
        model.save_pretrained(tmp_path / name)
    model = PeftModel.from_pretrained(family_model("llama"), tmp_path / "one", adapter_name="one")
    model.load_adapter(tmp_path / "two", adapter_name="two", low_cpu_mem_usage=True)
    assert {parameter.device.type for parameter in model.parameters()} == {infer_device()}
    for name in ("two", "one", "two"):
        model.set_adapter(name)
        assert torch.equal(logits(model), expected[name])


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"granularity": "prompt"}, {"router": "linear"}])
def test_two_active_adapters_add_up(settings, family_model, adapted, shaken):
    # On the head, whose input no adapter changes, so that the sum is exact.
    model = shaken(adapted(family_model("llama"), target_modules=["lm_head"], **settings))
    model.add_adapter("other", config(target_modules=["lm_head"], **settings))
    first = logits(model)
    model.set_adapter("other")
    second = logits(shaken(model, 7))
    model.base_model.set_adapter(["default", "other"])
    with model.disable_adapter():
        base = logits(model)
    torch.testing.assert_close(logits(model), first + second - base, atol=1e-5, rtol=1e-5)


def test_two_active_adapters_that_share_routers(family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama"), router_scope="layer"))
    model.add_adapter("fresh", config(router_scope="block"))
    expected = logits(model)
    model.base_model.set_adapter(["default", "fresh"])
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)


def test_adapters_within_a_batch_are_refused_rather_than_ignored(family_model, adapted):
    model = adapted(family_model("llama"))
    with pytest.raises(TopicLoraError, match="adapter_names"):
        logits(model, adapter_names=["default", "__base__"])


@each_setting
def test_state_dict_round_trip_without_a_peft_model(settings, family_model, shaken):
    model = shaken(inject_adapter_in_model(config(**settings), family_model("llama")))
    expected, state = logits(model), get_peft_model_state_dict(model)
    for early in ({}, {"low_cpu_mem_usage": True}):
        other = inject_adapter_in_model(config(**settings), family_model("llama"), **early)
        assert ("meta" in {parameter.device.type for parameter in other.parameters()}) == bool(early)
        result = set_peft_model_state_dict(other, state, **early)
        assert not result.unexpected_keys
        assert torch.equal(logits(other.eval()), expected)


@each_setting
def test_modules_to_save_are_trained_saved_and_reloaded(settings, family_model, adapted, tmp_path):
    model = adapted(family_model("llama"), modules_to_save=["lm_head"], **settings)
    train(model, steps=2)
    assert "other" in kinds(model)
    expected, head = logits(model), model.get_output_embeddings().weight
    assert not torch.equal(head, family_model("llama").get_output_embeddings().weight)
    model.save_pretrained(tmp_path)
    by_transformers = family_model("llama")
    by_transformers.load_adapter(str(tmp_path))
    for loaded in (PeftModel.from_pretrained(family_model("llama"), tmp_path), by_transformers):
        assert torch.equal(logits(loaded.eval()), expected)


@each_setting
def test_copies_of_every_kind(settings, family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama"), **settings))
    twin = copy.deepcopy(model)
    expected = logits(model)
    train(twin, steps=1)
    assert torch.equal(logits(model), expected)  # a copy shares nothing
    # Half-way, with a decision still to be handed on.
    interrupted(model, model.get_base_model().model.layers[1].mlp.act_fn.register_forward_pre_hook)
    copies = copies_of(model)
    for duplicate in copies:
        assert torch.equal(logits(duplicate.eval()), expected)
    # Decoding is independent too: the prompt's mean of one is not the other's.
    generated = model.generate(input_ids=TOKENS, max_new_tokens=3, do_sample=False)
    assert torch.equal(copies[0].generate(input_ids=TOKENS, max_new_tokens=3, do_sample=False), generated)


@pytest.mark.parametrize("router", ["topic", "cosine", "threshold", "sparsegen", "hierarchical", "graph", "static"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_whole_model_in_another_precision(router, dtype, family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama"), router=router, shared_a=True, router_width=6))
    expected, model = logits(model), model.to(dtype)
    if dtype == torch.float64:
        torch.testing.assert_close(logits(model).float(), expected, atol=1e-3, rtol=1e-3)
    assert_runs_and_trains_in(model, dtype)


@each_setting
def test_what_trains_after_adding_switching_disabling_and_deleting(settings, family_model, adapted):
    model = adapted(family_model("llama"), **settings)
    assert_the_active_adapter_alone_trains(model, lambda: config(**settings))


def test_routers_alone_train_through_everything(family_model, adapted, tmp_path):
    model = adapted(family_model("llama"), train_experts=False)
    assert kinds(model) == {"router"}
    model.add_adapter("whole", config())
    model.set_adapter("whole")
    assert kinds(model) == {"router", "A", "B"}
    model.set_adapter("default")
    with model.disable_adapter():
        pass
    model.delete_adapter("whole")
    assert kinds(model) == {"router"}
    model.save_pretrained(tmp_path)
    by_transformers = family_model("llama")
    by_transformers.load_adapter(str(tmp_path), is_trainable=True)
    for door in (
        by_transformers,
        PeftModel.from_pretrained(family_model("llama"), tmp_path, is_trainable=True),
        PeftModel.from_pretrained(family_model("llama"), tmp_path, is_trainable=True, low_cpu_mem_usage=True),
    ):
        assert kinds(door) == {"router"}
    assert not trainable(PeftModel.from_pretrained(family_model("llama"), tmp_path))


def test_counts_status_and_names(family_model, adapted, capsys):
    model = adapted(family_model("llama"), target_modules=["q_proj"])
    model.print_trainable_parameters()
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"trainable params: {count:,}" in capsys.readouterr().out
    status = model.get_model_status()
    assert (status.num_adapter_layers, status.trainable_params, status.enabled) == (2, count, True)
    assert status.requires_grad == {"default": True}
    assert [layer.name for layer in model.get_layer_status()] == [
        f"model.model.layers.{number}.self_attn.q_proj" for number in (0, 1)
    ]
    assert "TopicLoraLinear" in repr(model)
    assert not model.supports_lora_conversion()


def test_where_adapters_go(family_model, adapted):
    def names(**settings):
        return adapted(family_model("llama"), **settings).targeted_module_names

    assert {name.split(".")[2] for name in names(target_modules=["q_proj"], layers_to_transform=[1])} == {"1"}
    assert {name.split(".")[2] for name in names(layers_to_transform=0)} == {"0"}  # together with all-linear
    assert not any(name.endswith("q_proj") for name in names(exclude_modules=["q_proj"]))
    assert not any(".0." in name for name in names(exclude_modules=r".*\.0\..*"))
    assert {name.rpartition(".")[2] for name in names(target_modules=None)} == {"q_proj", "v_proj"}  # peft's default


def test_a_tied_head_keeps_its_embedding(family_model, adapted, shaken, tmp_path):
    base = family_model("llama", tie_word_embeddings=True)
    before = logits(base)
    with pytest.warns(UserWarning, match="tie"):
        model = adapted(base, target_modules=["q_proj", "lm_head"])
    assert torch.equal(logits(model), before)
    expected = logits(shaken(model))
    model.save_pretrained(tmp_path)
    assert torch.equal(
        logits(PeftModel.from_pretrained(family_model("llama", tie_word_embeddings=True), tmp_path)), expected
    )
    assert torch.equal(logits(model.unload()), before)


@each_setting
def test_unloading_leaves_nothing_behind(settings, family_model, adapted):
    base = family_model("llama")
    adapted(base, **settings).unload()
    assert not base._forward_pre_hooks
    assert not base._forward_hooks
    assert not any("topiclora" in name for name, _ in base.named_modules())


@each_setting
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(settings, reentrant, family_model, adapted, shaken):
    """Also with two forward passes of different padding before one backward, and a third without gradient.

    In float64: the order in which gradients add up differs, and on some processors float32 shows it.
    """
    masks = [torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]), torch.tensor([[1] * 6, [0, 0, 0, 1, 1, 1]])]
    seen = []
    for checkpointing in (False, True):
        model = shaken(adapted(family_model("llama").double(), **settings)).double().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        losses = [model(input_ids=TOKENS, labels=TOKENS, attention_mask=mask).loss for mask in masks]
        logits(model)
        (losses[0] + 2 * losses[1]).backward()
        seen.append(gradients(model))
    assert_same_gradients(seen[1], seen[0], atol=1e-12)


def test_prepared_for_quantised_training(family_model, adapted):
    base = prepare_model_for_kbit_training(family_model("llama"), use_gradient_checkpointing=True)
    model = adapted(base, router_scope="layer")
    losses = train(model)
    assert losses[-1] < losses[0]
