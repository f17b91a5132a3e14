"""Experts that every token passes through, in whole models: what is recorded, counted, exported, saved and refused."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS, logits
from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.adapters.counting import adapted_modules, count_parameters
from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.collapse import plain_lora


@pytest.mark.parametrize("gate", ["one", "softmax"])
def test_what_is_recorded_is_of_the_routed_experts(gate, tiny_model):
    config = TopicLoraConfig(
        r=2, num_experts=4, shared_experts=2, shared_gate=gate, top_k=2, target_modules=["q_proj", "down_proj"]
    )
    model = shaken(get_peft_model(tiny_model, config))
    with record_routing(model) as record:
        logits(model)
    assert {tensor.shape for tensor in (*record.logits.values(), *record.gates.values())} == {(2, 6, 4)}
    for name, shared in record.shared_gates.items():
        total = record.gates[name].sum(-1) + shared.sum(-1)
        assert (record.gates[name] > 0).sum(-1).eq(2).all()
        torch.testing.assert_close(total, torch.full_like(total, 3.0 if gate == "one" else 1.0))
    assert record.shared_gates.keys() == record.gates.keys()


def test_a_plain_module_has_none(tiny_model):
    config = TopicLoraConfig(
        r=2, num_experts=4, shared_experts=2, target_modules=["q_proj", "v_proj"], plain_modules=["v_proj"]
    )
    model = get_peft_model(tiny_model, config)
    shapes = {name.split(".")[-4]: p.shape for name, p in model.named_parameters() if "topiclora_B" in name}
    assert shapes == {"q_proj": (6, 2, 32), "v_proj": (1, 2, 16)}


def test_layers_that_differ_in_their_experts_have_the_same_number_of_shared_ones(tiny_model):
    config = TopicLoraConfig(
        r=2, experts_per_layer=[2, 5], ranks_per_layer=[3, 1], shared_experts=2, top_k=2, target_modules=["q_proj"]
    )
    model = shaken(get_peft_model(tiny_model, config))
    assert [p.shape for n, p in model.named_parameters() if "topiclora_B" in n] == [(4, 3, 32), (7, 1, 32)]
    (row,) = adapted_modules(model)
    assert (row.experts, row.rank) == ("2-5 + 2 shared", "1-3")
    assert logits(model).isfinite().all()


def test_two_active_adapters_add_up(tiny_model, tiny_model_dir):
    settings = {"r": 2, "num_experts": 4, "top_k": 2, "target_modules": ["lm_head"], "task_type": "CAUSAL_LM"}
    model = shaken(get_peft_model(tiny_model, TopicLoraConfig(**settings, shared_experts=3)))
    model.add_adapter("second", TopicLoraConfig(**settings, shared_experts=2, shared_gate="softmax"))
    shaken(model, seed=7)
    base, deltas = logits(AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()), []
    for name in ("default", "second"):
        model.set_adapter(name)
        deltas.append(logits(model) - base)
    model.base_model.set_adapter(["default", "second"])
    torch.testing.assert_close(logits(model), base + sum(deltas), atol=1e-5, rtol=1e-5)


def test_shapes_counts_and_words_by_hand(tiny_model):
    settings = {"router": "linear", "router_scope": "layer", "target_modules": ["q_proj", "down_proj"]}
    config = TopicLoraConfig(r=2, num_experts=4, top_k=1, shared_experts=3, shared_gate="softmax", **settings)
    model = get_peft_model(tiny_model, config)
    one, router = 2 * (32 + 32) + 2 * (48 + 32), (4 + 3) * 32
    assert count_parameters(model) == (2 * (7 * one + router), 2 * ((1 + 3) * one + router))
    rows = {row.name: row for row in adapted_modules(model)}
    assert rows["mlp.down_proj"].experts == "4 + 3 shared"
    state = {name.split("topiclora_")[1]: p.shape for name, p in model.named_parameters() if "0.self_attn" in name
             and "topiclora_" in name}  # fmt: skip
    assert state == {
        "A.default.weight": (7, 2, 32),
        "B.default.weight": (7, 2, 32),
        "router.default.weight": (4, 32),
        "router.default.shared_weight": (3, 32),
    }


def test_frozen_experts_are_all_of_them(tiny_model):
    settings = {"shared_experts": 2, "shared_gate": "softmax", "router": "linear", "train_experts": False}
    model = get_peft_model(tiny_model, TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj"], **settings))
    trained = {name.split("topiclora_")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"router.default.weight", "router.default.shared_weight"}


def test_one_a_for_all_experts_is_never_idle(tiny_model):
    config = TopicLoraConfig(
        r=2, num_experts=4, top_k=1, shared_experts=2, shared_a=True, router="static", target_modules=["q_proj"]
    )
    shared, one, router = 2 * 32, 2 * 32, 4
    total, activated = count_parameters(get_peft_model(tiny_model, config))
    assert (total, activated) == (2 * (shared + 6 * one + router), 2 * (shared + 3 * one + router))


@pytest.mark.parametrize("gate", ["one", "softmax"])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "one-a"])
def test_an_export_under_observed_gates_is_exact(shared_a, gate, tiny_model, tiny_model_dir):
    """With a router that looks at nothing, fixed gates are no approximation."""
    settings = {"shared_experts": 2, "shared_gate": gate, "shared_a": shared_a, "top_k": 2}
    config = TopicLoraConfig(
        r=2, num_experts=4, router="linear" if gate == "softmax" else "static", target_modules=["q_proj"], **settings
    )
    model = shaken(get_peft_model(tiny_model, config))
    if gate == "softmax":
        for name, parameter in model.named_parameters():
            if "router" in name:
                parameter.data.zero_()
    tokens = {"input_ids": TOKENS, "token_mask": torch.ones_like(TOKENS)}
    assert {gates.shape for gates in observe_gates(model, [tokens]).values()} == {(2, 4)}
    observed = {name: gates.mean(0) for name, gates in observe_gates(model, [tokens], shared=True).items()}
    lora = plain_lora(model, observed).onto(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    assert lora.peft_config["default"].r == (2 if shared_a else 8)  # two of the experts are never chosen
    torch.testing.assert_close(logits(lora), logits(model), atol=1e-5, rtol=1e-5)
    with pytest.raises(TopicLoraError, match=r"q_proj has 6 experts, but gates of shape \(4,\)"):
        plain_lora(model, {name: gates[:4] for name, gates in observed.items()})


def test_a_file_without_the_keys_has_none(tiny_model, tiny_model_dir, tmp_path):
    config = TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = shaken(get_peft_model(tiny_model, config))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    saved = json.loads(file.read_text())
    assert (saved.pop("shared_experts"), saved.pop("shared_gate")) == (0, "one")
    file.write_text(json.dumps(saved))
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), tmp_path)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared_experts": -1}, r"shared_experts \(-1\) must be at least 0"),
        ({"num_experts": 4, "shared_experts": 5}, r"shared_experts \(5\) cannot exceed num_experts \(4\)"),
        ({"experts_per_layer": [8, 2], "shared_experts": 3}, r"shared_experts \(3\) cannot exceed num_experts \(2\)"),
        ({"shared_gate": "two"}, "shared_gate 'two' is unknown"),
        ({"shared_gate": "softmax"}, "needs shared experts"),
        ({"shared_experts": 1, "shared_gate": "softmax", "router": "threshold"}, "nothing to the threshold router"),
        (
            {"shared_experts": 1, "shared_gate": "softmax", "mixing": "ffn", "router_scope": "block"},
            "nothing to mixing: ffn",
        ),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(TopicLoraError, match=message) as error:
        TopicLoraConfig(**settings)
    assert "\n" not in str(error.value)


def test_as_many_shared_experts_as_routed_ones_are_allowed():
    assert TopicLoraConfig(num_experts=8, shared_experts=8).all_experts == 16
