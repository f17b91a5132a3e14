"""What a user of PERFT can get wrong: one line says what, by every door."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.adapters.helpers import TOKENS, by_load_adapter, by_peft, by_peft_empty_first, damage, logits, rewrite
from tests.conftest import shaken
from topiclora_cli.adapters import PerftConfig
from topiclora_cli.errors import TopicLoraError

UNKNOWN = {
    "variant": ("routd", "routed"),
    "adapter_type": ("paralel", "parallel"),
    "renormalize": ("of", "off"),
    "router_weight_source": ("pretraind", "pretrained"),
    "router": ("topics", "topic"),
    "kernel": ("spars", "sparse"),
}
SETTINGS = [
    ({"r": 0}, r"^r \(0\) must be at least 1"),
    ({"num_adapters": -1}, r"^num_adapters \(-1\)"),
    ({"top_k": 0}, r"^top_k \(0\)"),
    ({"top_k": 5, "num_adapters": 4}, r"^top_k \(5\) cannot exceed num_adapters \(4\)"),
    ({"variant": "embedded", "router": "topic"}, "embedded variant has no router of its own.* variant: routed"),
    ({"variant": "dense", "router_weight_source": "pretrained"}, "dense variant has no router"),
    ({"variant": "shared", "router": "topic"}, "shared variant has no router"),
    ({"num_adapters": 2, "shared_adapters": 3}, r"shared_adapters \(3\) cannot exceed num_adapters \(2\)"),
    ({"shared_adapters": -1}, r"shared_adapters \(-1\) must be at least 0"),
    ({"variant": "dense", "shared_adapters": 1}, "shared_adapters means nothing to the dense variant"),
    ({"lora_alpha": 0}, "above 0"),
    ({"router_temperature": -1.0}, "above 0"),
    ({"lora_dropout": 1.0}, r"lora_dropout \(1.0\)"),
    ({"router": "topic", "anchors": [[1.0, 0.0]] * 3}, "3 anchors do not fit"),
    ({"router": "topic", "num_adapters": 2, "anchors": [[1.0, 0.0], [1.0]]}, "one length"),
    ({"router": "topic", "num_adapters": 2, "anchors": [[float("nan")], [1.0]]}, "NaN"),
    *(
        ({key: wrong}, f"^{key} '{wrong}' is unknown. Did you mean .*'{right}'")
        for key, (wrong, right) in UNKNOWN.items()
    ),
]
PLACES = [
    ({"target_modules": ["mpl"]}, r"leave out every MoE block. The blocks: model.layers.0.mlp, model.layers.1.mlp"),
    ({"target_modules": ["q_proj"]}, "leave out every MoE block"),
    ({"target_modules": r".*\.7\.mlp"}, "leave out every MoE block"),
    ({"exclude_modules": ["mlp"]}, "leave out every MoE block"),
    ({"layers_to_transform": [2]}, "leave out every MoE block"),
    ({"layers_to_transform": 7}, "leave out every MoE block"),
    ({"router_weight_source": "pretrained", "top_k": 4}, r"top_k \(4\) exceeds the 3 weights of the pretrained router"),
]


def named(cases):
    return [str(settings) for settings, _ in cases]


@pytest.mark.parametrize(("settings", "message"), SETTINGS, ids=named(SETTINGS))
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(TopicLoraError, match=message) as error:
        PerftConfig(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("settings", "message"), PLACES, ids=named(PLACES))
def test_settings_that_do_not_fit_the_base(settings, message, moe_model, beside):
    with pytest.raises(TopicLoraError, match=message) as error:
        beside(moe_model(), **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", ["routed", "embedded"])
def test_sorting_what_cannot_be_sorted(variant, moe_model, beside):
    model = beside(moe_model(), variant=variant, kernel="sparse", r=3)
    with pytest.raises(TopicLoraError, match=r"layers\.0\.mlp: kernel: sparse needs r"), torch.no_grad():
        model(input_ids=TOKENS)


@pytest.mark.parametrize("variant", ["routed", "embedded", "dense"])
def test_adapters_within_a_batch_are_refused_rather_than_ignored(variant, moe_model, beside):
    model = beside(moe_model(), variant=variant)
    with pytest.raises(TopicLoraError, match="adapter_names"):
        model(input_ids=TOKENS, adapter_names=["default", "__base__"])


def test_a_block_that_does_not_call_its_experts(moe_model, beside):
    model = beside(moe_model(), variant="embedded")
    block = model.base_model.model.model.layers[0].mlp.base_layer
    block.forward = lambda hidden_states: hidden_states  # as a kernel for the whole block would
    with pytest.raises(TopicLoraError, match=r"layers\.0\.mlp ran without calling its experts"):
        model(input_ids=TOKENS)


every_door = pytest.mark.parametrize("door", [by_peft, by_peft_empty_first, by_load_adapter])


@pytest.fixture
def saved(moe_model, beside, tmp_path):
    shaken(beside(moe_model(), router="topic", num_adapters=4, train_keys=True)).save_pretrained(tmp_path)
    return tmp_path


@every_door
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["perft_A.weight", "perft_B.weight", "perft_router.weight", "perft_router.keys"])
def test_damaged_weights(door, part, value, saved, moe_model):
    damage(saved, part, value)
    with pytest.raises(TopicLoraError, match=r"layers\.0\.mlp.*NaN or infinity") as error:
        door(saved, moe_model)
    assert "\n" not in str(error.value)


@every_door
@pytest.mark.parametrize("changes", [{"r": 4}, {"num_adapters": 5}, {"hidden_size": 16}])
def test_weights_of_other_shapes(door, changes, saved, moe_model):
    base = {key: value for key, value in changes.items() if key == "hidden_size"}
    rewrite(saved, **{key: value for key, value in changes.items() if key not in base})
    # transformers compares the shapes itself, and prints both of each tensor before it raises.
    error = (RuntimeError, "ignore_mismatched_sizes") if door is by_load_adapter else (TopicLoraError, "another base")
    with pytest.raises(error[0], match=error[1]):
        door(saved, lambda: moe_model(**base))


@pytest.mark.parametrize("door", [by_peft, by_peft_empty_first])
def test_a_base_with_other_experts(door, moe_model, beside, tmp_path):
    shaken(beside(moe_model(), variant="embedded")).save_pretrained(tmp_path)
    with pytest.raises(
        TopicLoraError, match=r"perft_A.default.weight is \(6, 2, 32\) in the adapter but \(8, 2, 32\) here"
    ):
        door(tmp_path, lambda: moe_model(num_experts=8))


@every_door
@pytest.mark.parametrize(("key", "value"), [(k, wrong) for k, (wrong, _) in UNKNOWN.items()] + [("r", 0)])
def test_settings_of_a_saved_adapter_that_this_version_does_not_know(door, key, value, saved, moe_model):
    rewrite(saved, **{key: value})
    with pytest.raises(TopicLoraError, match=f"^{key} "):
        door(saved, moe_model)


@pytest.mark.parametrize("door", [by_peft, by_peft_empty_first])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "dense", "router": "linear"}, "perft_router.anchor is in the adapter's file or"),
        ({"router": "linear"}, "perft_router.anchor is .* not in both"),
        ({"train_keys": False}, "perft_router.anchor is .* not in both"),
        ({"variant": "embedded", "router": "linear"}, "perft_A.default.weight is"),
        ({"variant": "shared", "router": "linear"}, "perft_A.default.weight is"),
    ],
)
def test_the_configuration_of_another_variant(door, settings, message, saved, moe_model):
    rewrite(saved, **settings)
    with pytest.raises(TopicLoraError, match=message):
        door(saved, moe_model)


@pytest.mark.parametrize("door", [by_peft, by_peft_empty_first])
def test_a_router_that_the_file_lacks(door, moe_model, beside, tmp_path):
    shaken(beside(moe_model(), variant="dense")).save_pretrained(tmp_path)
    rewrite(tmp_path, variant="routed")
    with pytest.raises(TopicLoraError, match=r"perft_router.default.weight is .* not in both"):
        door(tmp_path, moe_model)


@every_door
def test_a_base_without_these_blocks(door, saved, moe_model):
    with pytest.raises(TopicLoraError, match="no mixture-of-experts block"):
        door(saved, lambda: moe_model("llama"))


def test_experts_that_carry_lora_already(moe_model, beside):
    lora = LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"], task_type="CAUSAL_LM")
    model = shaken(get_peft_model(moe_model(), lora))
    before = logits(model)
    with pytest.raises(ValueError, match="different peft types"):
        model.add_adapter("beside", PerftConfig(r=2, task_type="CAUSAL_LM"))
    with pytest.raises(TopicLoraError, match=r"ParamWrapper is not called with its router's indices.* routed"):
        beside(model.get_base_model(), variant="embedded")
    both = beside(model.get_base_model(), r=2)  # beside a block, whatever is in it
    assert (logits(both) - before).abs().max() < 1e-2 * before.abs().max()
    assert not torch.allclose(logits(shaken(both)), before, atol=1e-2)


def test_experts_of_a_decoder_layer_itself_are_no_block(moe_model):
    model = moe_model("olmoe")
    layer = model.model.layers[1]
    layer.experts, layer.router = layer.mlp.experts, layer.mlp.gate
    with pytest.raises(TopicLoraError, match=r"model.layers.1 holds its experts itself .* lora-experts"):
        get_peft_model(model, PerftConfig(task_type="CAUSAL_LM"))
