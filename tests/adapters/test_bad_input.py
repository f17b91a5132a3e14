"""What a user can get wrong: one line says what, by every door."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS, by_load_adapter, by_peft, by_peft_empty_first, damage, rewrite
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.errors import TopicLoraError

ONE_OF = {"router": "linaer", "router_scope": "model", "kernel": "fast", "granularity": "word", "mixing": "tokens"}
SETTINGS = [
    ({"r": 0}, r"^r \(0\)"),
    ({"num_experts": -1}, r"num_experts \(-1\)"),
    ({"ranks_per_layer": [2, 0]}, r"^r \(0\)"),
    ({"experts_per_layer": [4, 0]}, r"num_experts \(0\)"),
    ({"top_k": 5, "num_experts": 4}, r"top_k \(5\).*\(4\)"),
    ({"top_k": 0}, "top_k"),
    ({"top_k": 3, "experts_per_layer": [4, 2]}, r"top_k \(3\).*\(2\)"),
    ({"top_k": 2, "top_p": 0.5}, "exclude one another"),
    ({"top_p": 1.5}, "top_p"),
    ({"anchors": [[1.0, 0.0]] * 3, "num_experts": 4}, "3 anchors do not fit"),
    ({"anchors": [[1.0, 0.0], [1.0]], "num_experts": 2}, "one length"),
    ({"anchors": [[], []], "num_experts": 2}, "one length"),
    ({"anchors": [[float("nan")], [1.0]], "num_experts": 2}, "NaN"),
    ({"router": "cosine"}, "shared A"),
    ({"mixing": "ffn"}, "router_scope: block"),
    ({"lora_alpha": 0}, "above 0"),
    ({"router_temperature": -1.0}, "above 0"),
    ({"lora_dropout": 1.0}, "lora_dropout"),
    ({"layers_to_transform": [0], "target_modules": ".*q_proj"}, "regular expression"),
    *(({key: value}, f"^{key} '{value}' is unknown") for key, value in ONE_OF.items()),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS, ids=[str(settings) for settings, _ in SETTINGS])
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(TopicLoraError, match=message) as error:
        TopicLoraConfig(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["experts_per_layer", "ranks_per_layer"])
def test_one_number_per_layer(key, family_model, adapted):
    with pytest.raises(TopicLoraError, match=f"{key} has 3 numbers, but the model has 2 layers"):
        adapted(family_model("llama"), **{key: [2, 2, 2]})


def test_targets_that_are_not_linear_layers(family_model, adapted):
    with pytest.raises(TopicLoraError, match="embed_tokens is a Embedding, not a linear layer"):
        adapted(family_model("llama"), target_modules=["embed_tokens"])


def test_routing_by_prompt_inside_experts(family_model, adapted):
    model = adapted(family_model("qwen2_moe"), granularity="prompt")
    with pytest.raises(TopicLoraError, match="granularity: token"), torch.no_grad():
        model(input_ids=TOKENS)


def by_auto_model(folder, base):
    base().save_pretrained(folder / "base")
    rewrite(folder, base_model_name_or_path=str(folder / "base"))
    AutoModelForCausalLM.from_pretrained(folder)


DOORS = [by_peft, by_peft_empty_first, by_load_adapter, by_auto_model]
every_door = pytest.mark.parametrize("door", DOORS)


@pytest.fixture
def saved(family_model, adapted, shaken, tmp_path):
    """A saved adapter, and a function that gives its base."""
    shaken(adapted(family_model("llama"), train_keys=True)).save_pretrained(tmp_path)
    return tmp_path, lambda: family_model("llama")


@every_door
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "part", ["topiclora_A.weight", "topiclora_B.weight", "topiclora_router.weight", "topiclora_router.anchor"]
)
def test_damaged_weights(door, part, value, saved):
    folder, base = saved
    damage(folder, part, value)
    with pytest.raises(TopicLoraError, match=r"layers\.0.*NaN or infinity") as error:
        door(folder, base)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("door", [by_peft, by_peft_empty_first])
def test_another_base_by_peft(door, saved, family_model):
    with pytest.raises(TopicLoraError, match="trained on another base model"):
        door(saved[0], lambda: family_model("llama", hidden_size=16))


@pytest.mark.parametrize("door", [by_load_adapter, by_auto_model])
def test_another_base_by_transformers(door, saved, family_model):
    # transformers compares the shapes itself, and prints both of each tensor before it raises.
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        door(saved[0], lambda: family_model("llama", hidden_size=16))


@every_door
def test_a_base_without_these_layers(door, saved, family_model):
    with pytest.raises(ValueError, match="not found in the base model"):
        door(saved[0], lambda: family_model("gpt2"))


@every_door
@pytest.mark.parametrize(("key", "value"), [*ONE_OF.items(), ("router", "telepathy"), ("r", 0)])
def test_settings_of_a_saved_adapter_that_this_version_does_not_know(door, key, value, saved):
    folder, base = saved
    rewrite(folder, **{key: value})
    with pytest.raises(TopicLoraError, match=f"^{key} "):
        door(folder, base)


@every_door
def test_a_deeper_or_shallower_base(door, family_model, adapted, shaken, tmp_path):
    shaken(adapted(family_model("llama"), experts_per_layer=[4, 2])).save_pretrained(tmp_path)
    with pytest.raises(TopicLoraError, match="experts_per_layer has 2 numbers, but the model has 3 layers"):
        door(tmp_path, lambda: family_model("llama", num_hidden_layers=3))
