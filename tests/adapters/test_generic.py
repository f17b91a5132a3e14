"""What every adapter of peft does, held against ours: routers, scopes and variants, in float32 and in 16 bits."""

import json

import pytest
import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_layer_status,
    get_model_status,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from transformers import AutoModel

from tests.adapters.helpers import TOKENS, logits, trainable
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig

MIXTURES = {
    "topic": {"router": "topic"},
    "top2": {"router": "linear", "top_k": 2},
    "layer": {"router": "linear", "router_scope": "layer"},
    "block-trained-keys": {"router": "topic", "router_scope": "block", "train_keys": True},
    "cosine": {"router": "cosine", "shared_a": True},
    "threshold": {"router": "threshold"},
    "prompt": {"router": "topic", "granularity": "prompt"},
    "ffn": {"router": "linear", "router_scope": "block", "mixing": "ffn", "top_k": 2},
    "plain-modules": {"router": "graph", "plain_modules": ["q_proj"]},
}
VARIANTS = {
    "perft-routed": {},
    "perft-topic": {"router": "topic"},
    "perft-pretrained": {"router_weight_source": "pretrained"},
    "perft-embedded": {"variant": "embedded", "adapter_type": "parallel"},
    "perft-dense": {"variant": "dense"},
}
DTYPES = {
    "float32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "bfloat16 + 32": (torch.bfloat16, True),
}


class Case:
    """One configuration on a base of one precision."""

    def __init__(self, name, dtype, family_model, shaken):
        self.name, self.shaken = name, shaken
        self.dtype, self.autocast = DTYPES[dtype]
        self._base = family_model

    def base(self):
        return self._base("llama" if self.name in MIXTURES else "olmoe").to(self.dtype)

    def config(self, **changes):
        common = {"r": 2, "task_type": "CAUSAL_LM"}
        if self.name in MIXTURES:
            mixture = {"num_experts": 4, "target_modules": "all-linear", "router_width": 6}
            return TopicLoraConfig(**{**common, **mixture, **MIXTURES[self.name], **changes})
        return PerftConfig(**{**common, "num_adapters": 4, **VARIANTS[self.name], **changes})

    def fresh(self, name="default", **changes):
        return get_peft_model(self.base(), self.config(**changes), name, autocast_adapter_dtype=self.autocast)

    def trained(self, name="default", seed=0, **changes):
        return self.shaken(self.fresh(name, **changes), seed)

    def load(self, folder, **options):
        return PeftModel.from_pretrained(self.base(), folder, autocast_adapter_dtype=self.autocast, **options).eval()


@pytest.fixture(params=[*MIXTURES, *VARIANTS])
def name(request):
    return request.param


@pytest.fixture(params=["float32", "bfloat16"])
def case(request, name, family_model, shaken):
    return Case(name, request.param, family_model, shaken)


@pytest.fixture
def plain(name, family_model, shaken):
    """The same in float32 alone, for what does not depend on the precision."""
    return Case(name, "float32", family_model, shaken)


def test_a_fresh_adapter_changes_next_to_nothing_and_a_trained_one_does(plain):
    base = logits(plain.base())
    torch.testing.assert_close(logits(plain.fresh().eval()), base, atol=0.01, rtol=0)
    assert (logits(plain.trained()) - base).abs().max() > 0.05


def test_state_dict_round_trip(case):
    model, other = case.trained(), case.fresh().eval()
    result = set_peft_model_state_dict(other, get_peft_model_state_dict(model))
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "topiclora_" in key or "perft_" in key]
    assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("adapter", ["other", "my-adapter 1", "weight", "A", "model", "ü"])
@pytest.mark.parametrize("name", ["topic", "perft-topic"])
def test_saved_and_loaded_under_any_name(adapter, name, family_model, shaken, tmp_path):
    plain = Case(name, "float32", family_model, shaken)
    model = plain.trained(adapter)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(plain.load(tmp_path / adapter)), logits(model))
    assert torch.equal(logits(plain.load(tmp_path / adapter, adapter_name=adapter)), logits(model))


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_and_loaded_in_its_precision(dtype, name, family_model, shaken, tmp_path):
    case = Case(name, dtype, family_model, shaken)
    model = case.trained()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(case.load(tmp_path)), logits(model))
    assert trainable(case.load(tmp_path, is_trainable=True)) == trainable(model)
    assert not trainable(case.load(tmp_path))


def test_training_moves_every_trained_parameter(case):
    model = case.trained().train()
    assert trainable(model)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert {key for key, p in model.named_parameters() if p.grad is not None} == trainable(model)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("reentrant", [False, True])
def test_training_with_checkpointing(reentrant, case):
    model = case.trained().train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert {key for key, p in model.named_parameters() if p.grad is not None} == trainable(model)


def test_two_adapters_switched_disabled_deleted_and_unloaded(case):
    model, base = case.trained(), logits(case.base())
    first = logits(model)
    model.add_adapter("second", case.config(r=3), autocast_adapter_dtype=case.autocast)
    assert torch.equal(logits(model.eval()), first)
    model.set_adapter("second")
    second = logits(case.shaken(model, 1))
    assert not torch.equal(second, first)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), second)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    model.delete_adapter("default")
    model.set_adapter("second")
    assert torch.equal(logits(model), second)
    assert not [key for key in model.state_dict() if ".default" in key]
    unloaded = model.unload()
    assert torch.equal(logits(unloaded), base)
    assert unloaded.state_dict().keys() == case.base().state_dict().keys()


def test_deleting_the_active_adapter_leaves_another_or_the_base(plain):
    model = plain.trained()
    model.add_adapter("second", plain.config())
    with pytest.warns(UserWarning, match="Setting active adapter to second"):
        model.delete_adapter("default")
    assert model.active_adapters == ["second"]
    model.delete_adapter("second")
    assert torch.equal(logits(model.base_model.model.eval()), logits(plain.base()))


def test_two_active_adapters_add_up(plain):
    if plain.name == "ffn":
        pytest.skip("mixes one adapter at a time, and says so")
    model = plain.trained()
    alone = logits(model)
    model.add_adapter("second", plain.config())
    model.base_model.set_adapter(["default", "second"])
    torch.testing.assert_close(logits(model.eval()), alone, atol=1e-4, rtol=1e-3)  # the second is fresh
    assert any(".second." in key for key in trainable(model))
    assert any(".default." in key for key in trainable(model))


def test_an_adapter_for_inference_does_not_train(plain):
    assert not trainable(plain.fresh(inference_mode=True))


@pytest.mark.parametrize("use_cache", [False, True])
def test_generate_by_keyword_and_by_position(use_cache, case):
    model = case.trained()
    prompt, options = TOKENS[:, :4], {"max_new_tokens": 3, "do_sample": False, "use_cache": use_cache}
    by_keyword = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
    assert by_keyword.shape == (2, 7)
    assert torch.equal(model.generate(prompt, attention_mask=torch.ones_like(prompt), **options), by_keyword)


def test_embeddings_instead_of_tokens(plain):
    model = plain.trained()
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(TOKENS)
        torch.testing.assert_close(model(inputs_embeds=embeddings).logits, logits(model))


def test_a_configuration_survives_its_file_and_its_dictionary(plain, tmp_path):
    config = plain.config()
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert loaded.to_dict() == config.to_dict()
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert type(config).from_peft_type(**written).to_dict() == loaded.to_dict()


def test_a_configuration_can_be_used_again_on_another_model(plain, family_model):
    config = plain.config()
    before = config.to_dict()
    model = get_peft_model(plain.base(), config)
    model.add_adapter("second", config)
    assert config.to_dict() == before | {key: config.to_dict()[key] for key in ("base_model_name_or_path",)}
    deeper = family_model("llama" if plain.name in MIXTURES else "olmoe", num_hidden_layers=3)
    adapted = get_peft_model(deeper, config)
    assert any("layers.2" in key for key in trainable(adapted))


def test_counts_and_words(plain):
    model = plain.fresh()
    trained, total = model.get_nb_trainable_parameters()
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert total == sum(p.numel() for p in model.parameters())
    assert "_A" in repr(model)
    assert repr(plain.config())


def test_the_status_that_peft_reports(plain):
    model = plain.fresh()
    model.add_adapter("second", plain.config())
    status = get_model_status(model)
    assert (status.enabled, status.active_adapters) == (True, ["default"])
    assert sorted(status.available_adapters) == ["default", "second"]
    assert status.merged_adapters == []
    # One whose own router is idle trains in part.
    assert status.requires_grad["default"] == ("irregular" if plain.name == "perft-pretrained" else True)
    assert status.requires_grad["second"] is False
    assert {device for devices in status.devices.values() for device in devices} == {"cpu"}
    assert all(layer.module_type in ("TopicLoraLinear", "PerftBlock") for layer in get_layer_status(model))
    model.base_model.disable_adapter_layers()
    assert get_model_status(model).enabled is False


def test_loading_twice_and_under_a_second_name(plain, tmp_path):
    model = plain.trained()
    expected = logits(model)
    model.save_pretrained(tmp_path)
    fresh = plain.fresh()
    for adapter in ("default", "default", "second"):
        fresh.load_adapter(tmp_path, adapter)
        fresh.set_adapter(adapter)
        assert torch.equal(logits(fresh.eval()), expected)


def test_a_head_trained_and_saved_whole(case, tmp_path):
    model = case.trained(modules_to_save=["lm_head"])
    assert any("lm_head" in key for key in trainable(model))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(case.load(tmp_path)), logits(model))


@pytest.mark.parametrize("tokens", [[5, 9], {"embed_tokens": [5, 9]}], ids=str)
def test_single_tokens_trained_beside_the_adapter(tokens, plain, tmp_path):
    """What SFTTrainer asks for where a chat template brings tokens of its own."""
    model = plain.trained(trainable_token_indices=tokens)
    assert any("token_adapter" in key for key in trainable(model))
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(plain.load(tmp_path)), logits(model))


@pytest.mark.parametrize("layers", [1, [1]])
def test_some_layers_alone(layers, plain):
    model = plain.fresh(layers_to_transform=layers)
    assert trainable(model)
    assert all("layers.1." in key for key in trainable(model))


def test_a_model_without_a_head(plain, tmp_path):
    plain.base().save_pretrained(tmp_path / "base")
    base = AutoModel.from_pretrained(tmp_path / "base")
    model = plain.shaken(get_peft_model(base, plain.config(task_type="FEATURE_EXTRACTION")))
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=TOKENS).last_hidden_state, model(input_ids=TOKENS).last_hidden_state)


@pytest.mark.parametrize("change", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_as_peft_refuses(change, plain):
    with pytest.raises(ValueError, match=r"merged|no dense weight"):
        getattr(plain.trained(), change)()


def test_a_weighted_sum_of_adapters_is_refused(plain):
    with pytest.raises(ValueError, match="add_weighted_adapter"):
        plain.trained().add_weighted_adapter(["default"], [1.0], "sum")
