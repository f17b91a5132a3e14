"""Experts that every token passes through, beside the routed ones: the maths, the counts, and what is the routed's."""

import json
from unittest.mock import Mock

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS, logits
from tests.adapters.test_kernels import D_IN, D_OUT, KERNELS, E, FeedForward, R, assert_near, expert, layer, outcome
from tests.adapters.test_kernels import randomised as with_random_weights
from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.adapters.counting import adapted_modules, count_parameters
from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.adapters.routers import ROUTERS
from topiclora_cli.adapters.selection import select_experts
from topiclora_cli.adapters.topiclora import linear
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.collapse import collapse_to_lora

S = 3
CHOICES = [{"top_k": None}, {"top_k": 1}, {"top_k": 2}, {"top_p": 0.6}]


def batch(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


def scores(mixture, x):
    """What the router says of routed and shared experts, (..., E) and (..., S)."""
    router = mixture.topiclora_router["default"]
    if mixture.topiclora_config["default"].router == "topic":
        routed = (x @ router.weight.T) @ router.keys.T * router.scale + router.bias
    else:
        routed = x @ router.weight.T
    return routed, x @ router.shared_weight.T if hasattr(router, "shared_weight") else None


def naive_gates(mixture, x):
    """(..., E + S), the definition written out."""
    config = mixture.topiclora_config["default"]
    routed, shared = scores(mixture, x)
    gates = select_experts(routed, top_k=config.top_k, top_p=config.top_p)
    if shared is None:
        return torch.cat([gates, torch.ones(*x.shape[:-1], S, dtype=x.dtype)], -1)
    weight = routed.exp() * (gates > 0)
    total = weight.sum(-1, keepdim=True) + shared.exp().sum(-1, keepdim=True)
    return torch.cat([weight, shared.exp()], -1) / total


def loop(mixture, x):
    """The layer as a sum over all experts."""
    gates = naive_gates(mixture, x)
    return mixture.base_layer(x) + sum(gates[..., e, None] * expert(mixture, e, x) for e in range(E + S))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "one-a"])
@pytest.mark.parametrize("gate", ["one", "softmax"])
@pytest.mark.parametrize("router", ["linear", "topic"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_a_loop_over_all_experts(kernel, router, gate, shared_a, choice):
    mixture = layer(kernel, router=router, shared_experts=S, shared_gate=gate, shared_a=shared_a, **choice)
    for shape in ((7, D_IN), (2, 3, D_IN)):
        x = batch(*shape)
        assert_near(outcome(mixture, mixture, x), outcome(lambda x: loop(mixture, x), mixture, x), 1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("router", ROUTERS)
def test_any_router_leaves_shared_experts_a_gate_of_one(router, kernel):
    settings = {"router_width": 6, "shared_a": router == "cosine"}
    mixture = layer(kernel, router=router, shared_experts=S, **settings)
    x = batch(2, 3, D_IN)

    def naive(x):
        routing = mixture.route("default", x)
        assert torch.equal(routing.gates[..., E:], torch.ones(2, 3, S, dtype=torch.float64))
        return mixture.base_layer(x) + sum(routing.gates[..., e, None] * expert(mixture, e, x) for e in range(E + S))

    assert_near(outcome(mixture, mixture, x), outcome(naive, mixture, x), 1e-10)


@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "one-a"])
def test_mixed_after_a_non_linearity_they_are_part_of_every_chosen_expert(shared_a, top_k):
    names = ["gate_proj", "up_proj", "down_proj"]
    settings = {"mixing": "ffn", "router_scope": "block", "router": "linear", "shared_experts": S}
    config = TopicLoraConfig(r=R, num_experts=E, target_modules=names, top_k=top_k, shared_a=shared_a, **settings)
    model = with_random_weights(get_peft_model(FeedForward(), config), torch.float64)
    parts = model.base_model.model.mlp

    def always(part, x):
        return sum(expert(part, e, x) for e in range(E, E + S))

    def naive(x):
        gates = select_experts(x @ parts["gate_proj"].topiclora_router["default"].weight.T, top_k=top_k)
        share, down, total = gates / gates.sum(-1, keepdim=True), parts["down_proj"], 0
        for e in range(E):
            gate, up = (
                parts[n].base_layer(x) + always(parts[n], x) + expert(parts[n], e, x) for n in ("gate_proj", "up_proj")
            )
            inner = nn.functional.silu(gate) * up
            total = total + share[..., e, None] * (inner @ down.base_layer.weight.T + always(down, inner))
            total = total + gates[..., e, None] * expert(down, e, inner)
        return total + down.base_layer.bias

    x = batch(2, 3, D_IN)
    assert_near(outcome(model, model, x), outcome(naive, model, x), 1e-10)


@pytest.mark.parametrize("kernel", ["plain", "sparse"])
def test_one_mask_serves_routed_and_shared_experts_alike(kernel):
    mixture = layer(kernel, shared_experts=S, top_k=2, lora_dropout=0.5, lora_alpha=R).train()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.fill_(0)
        mixture.topiclora_A["default"].weight.fill_(1)
        mixture.topiclora_B["default"].weight[:, 0] = 1
    # Each expert adds twice the number of entries that were left of x; gates sum to one, and S times one.
    left = mixture(torch.ones(40, D_IN, dtype=torch.float64)) / (2 * (1 + S))
    assert len(left.round().unique()) > 3
    torch.testing.assert_close(left, left.round())
    mixture.topiclora_config["default"].expert_dropout = "own"
    left = mixture(torch.ones(40, D_IN, dtype=torch.float64)) / (2 * (1 + S))
    assert not torch.allclose(left, left.round())


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_rows_are_no_error(kernel):
    mixture = layer(kernel, top_k=2, shared_experts=S, shared_gate="softmax", dtype=torch.float32)
    for shape in ((0, D_IN), (2, 0, D_IN)):
        assert outcome(mixture, mixture, torch.empty(shape))["out"].shape == (*shape[:-1], D_OUT)


def test_experts_for_every_token_do_not_decide_whether_to_sort(monkeypatch):
    x = batch(40, 16, dtype=torch.float32)
    for experts, sorts in ((40, False), (60, True)):  # of rank 4, where 192 is the limit
        sizes = {"num_experts": experts, "size": 16, "top_k": 2, "shared_experts": 40}
        mixture = layer("auto", **sizes, dtype=torch.float32)
        with monkeypatch.context() as patch:
            patch.setattr(linear, "sparse_delta", sparse_delta := Mock(wraps=linear.sparse_delta))
            out = mixture(x)
        assert sparse_delta.called == sorts
        expected = layer("plain", **sizes)(x.double())
        torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-4)


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
    lora = collapse_to_lora(model, AutoModelForCausalLM.from_pretrained(tiny_model_dir), observed)
    assert lora.peft_config["default"].r == (2 if shared_a else 12)
    torch.testing.assert_close(logits(lora), logits(model), atol=1e-5, rtol=1e-5)
    with pytest.raises(TopicLoraError, match=r"q_proj has 6 experts, but gates of shape \(4,\)"):
        collapse_to_lora(model, lora.unload(), {name: gates[:4] for name, gates in observed.items()})


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
