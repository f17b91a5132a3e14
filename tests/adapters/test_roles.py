"""Which layers a role or a name stands for, by the tree of a model's modules, and the same for every method."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from tests.adapters.helpers import TOKENS, logits
from topiclora_cli.adapters.counting import adapted_modules
from topiclora_cli.adapters.presets import make_config
from topiclora_cli.adapters.roles import language_part, never_called, part_of
from topiclora_cli.adapters.stock import why_no_lora
from topiclora_cli.adapters.targets import full_names, left_alone, linear_layers, resolve_targets
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.adapter import KINDS
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.training.attach import attach, solve

LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
NO_FEED_FORWARD = (LLAMA[0], set())
# The last names of the linear layers of attention and of feed-forward, routers and heads left out.
PARTS = {
    "llama": LLAMA,
    "gpt2": ({"c_attn", "c_proj"}, {"c_fc", "c_proj"}),
    "opt": ({"q_proj", "k_proj", "v_proj", "out_proj"}, {"fc1", "fc2"}),
    "xglm": ({"q_proj", "k_proj", "v_proj", "out_proj"}, {"fc1", "fc2"}),
    "bart": ({"q_proj", "k_proj", "v_proj", "out_proj"}, {"fc1", "fc2"}),
    "phi": ({"q_proj", "k_proj", "v_proj", "dense"}, {"fc1", "fc2"}),
    "phi3": ({"qkv_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
    **dict.fromkeys(
        ("bloom", "falcon", "gpt_neox"), ({"query_key_value", "dense"}, {"dense_h_to_4h", "dense_4h_to_h"})
    ),
    **dict.fromkeys(("granitemoe", "olmoe", "mixtral", "qwen3_moe", "gpt_oss"), NO_FEED_FORWARD),
    "granitemoeshared": (LLAMA[0], {"input_linear", "output_linear"}),
    "granitemoehybrid": (LLAMA[0] | {"in_proj"}, {"input_linear", "output_linear"}),
    "hunyuan_v1_moe": LLAMA,
    "glm4_moe": LLAMA,
    "ernie4_5_moe": LLAMA,
    "qwen3_next": (LLAMA[0] | {"in_proj_qkvz", "in_proj_ba", "out_proj"}, LLAMA[1]),
    "deepseek_v2": ({"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}, LLAMA[1]),
    "recurrent_gemma": (LLAMA[0] | {"linear_x", "linear_y", "linear_out"}, LLAMA[1]),
    "lfm2": ({"q_proj", "k_proj", "v_proj", "in_proj", "out_proj"}, {"w1", "w2", "w3"}),
    "mamba": ({"in_proj"}, set()),
    "mamba2": ({"in_proj"}, set()),
    "jamba": (LLAMA[0] | {"in_proj", "x_proj", "out_proj"}, LLAMA[1]),
    "nemotron_h": (LLAMA[0] | {"in_proj"}, {"up_proj", "down_proj"}),
    "falcon_h1": (LLAMA[0] | {"in_proj"}, LLAMA[1]),
}
# Bases in which peft takes gate_proj, up_proj and down_proj for fused experts.
RENAMED = ["qwen2_moe", "qwen3_next", "deepseek_v2", "deepseek_v3", "glm4_moe", "ernie4_5_moe"]


def leaves(names):
    return {name.rpartition(".")[2] for name in names}


def adapted_by(model):
    """The full names in the base of the layers that carry an adapter."""
    names = {name for name, module in model.get_base_model().named_modules() if isinstance(module, BaseTunerLayer)}
    return {".".join(part for part in name.split(".") if part != "base_layer") for name in names}


def put_on(model, method, **settings):
    section = KINDS[METHODS[method].layer](method=method, r=2, **settings)
    return get_peft_model(model, make_config(section.layer, section.model_dump(), model, total_steps=20)).eval()


@pytest.mark.parametrize("family", PARTS)
def test_roles_follow_the_tree_of_modules(family, family_model):
    model = family_model(family)
    for role, expected in zip(("attention", "feed-forward"), PARTS[family], strict=True):
        if not expected:
            with pytest.raises(TopicLoraError, match="matches nothing"):
                resolve_targets(model, role)
            continue
        names = full_names(model, resolve_targets(model, role))
        assert leaves(names) == expected, role
        assert {part_of(model, name) for name in names} == {role}


@pytest.mark.parametrize("family", PARTS)
def test_every_layer_that_a_role_stands_for_runs(family, family_model):
    model = family_model(family)
    names = full_names(model, resolve_targets(model, "all-linear"))
    called = set()
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    logits(model)
    assert called == set(names)


@pytest.mark.parametrize("family", ["granitemoe", "granitemoehybrid", "hunyuan_v1_moe", "llama4_text"])
def test_no_router_is_a_linear_layer_to_adapt(family, family_model):
    parts = {part for name in linear_layers(family_model(family)) for part in name.split(".")}
    assert parts.isdisjoint({"router", "gate"})


@pytest.mark.parametrize(("family", "name"), [("mamba", "dt_proj"), ("jamba", "dt_proj")])
def test_a_layer_that_the_model_never_calls_is_refused(family, name, family_model):
    model = family_model(family)
    assert leaves(never_called(model)) == {name}
    for wanted in (["in_proj", name], f".*{name}"):
        with pytest.raises(TopicLoraError, match=rf"{name} and|{name} would get an adapter that never runs"):
            resolve_targets(model, wanted)
    assert name in leaves(left_alone(model))


def test_of_layers_with_one_name_those_that_are_called_are_meant(family_model):
    model = family_model("bart")  # its cross-attention has nothing to read here
    names = full_names(model, resolve_targets(model, ["q_proj", "v_proj"]))
    assert names
    assert all(".self_attn." in name for name in names)


def test_no_way_leads_to_an_adapter_that_never_runs(family_model):
    config = LoraConfig(target_modules=["dt_proj"], task_type="CAUSAL_LM")  # as experts from elsewhere bring it
    with pytest.raises(TopicLoraError, match="never runs"):
        attach(family_model("mamba"), config)


@pytest.mark.parametrize("family", ["mamba2", "nemotron_h", "falcon_h1"])
def test_what_has_no_stock_lora_is_known_before_training(family, family_model):
    every = linear_layers(family_model(family))
    assert "incompatible" in why_no_lora(family_model(family), every)
    model = family_model(family)
    assert why_no_lora(model, full_names(model, resolve_targets(model, "all-linear"))) is None


def test_a_model_that_cannot_be_tried_has_no_idle_layers():
    assert never_called(torch.nn.Sequential(torch.nn.Linear(2, 2))) == frozenset()


@pytest.mark.parametrize("wanted", ["all-linear", "attention", ["q_proj", "v_proj"]])
@pytest.mark.parametrize("method", ["molora", "lora"])
def test_of_a_vision_language_model_the_language_part_is_adapted(method, wanted, vision_model):
    assert language_part(vision_model) == "model.language_model."
    settings = KINDS[METHODS[method].layer](method=method, r=2, target_modules=wanted).model_dump()
    config = make_config("mixture" if method == "molora" else method, settings, vision_model)
    names = full_names(vision_model, config.target_modules)
    assert names
    assert all(name.startswith("model.language_model.") for name in names)


def test_the_vision_tower_is_refused_where_it_is_named_and_said_to_be_left_alone_otherwise(vision_model):
    tower = "vision_tower.encoder.layers.0.self_attn.q_proj"
    for wanted in ([tower], ".*q_proj"):  # no image, no call
        with pytest.raises(TopicLoraError, match=r"never runs.* Text alone calls model\.language_model\."):
            resolve_targets(vision_model, wanted)
    assert "outside the language part (model.language_model)" in set(left_alone(vision_model).values())


@pytest.mark.parametrize("family", RENAMED)
@pytest.mark.parametrize("wanted", ["all-linear", ["q_a_proj", "q_proj", "gate_proj", "up_proj", "down_proj"],
                                    r".*\.(o_proj|down_proj)"], ids=["role", "names", "regex"])  # fmt: skip
def test_the_same_targets_are_the_same_layers_to_every_method(family, wanted, family_model):
    if isinstance(wanted, list):
        names = leaves(linear_layers(family_model(family)))
        wanted = [name for name in wanted if name in names]
    found = {method: adapted_by(put_on(family_model(family), method, target_modules=wanted))
             for method in ("molora", "lora", "adalora")}  # fmt: skip
    assert found["molora"]
    assert not any("experts" in name.split(".") for name in found["molora"])
    assert found["lora"] == found["adalora"] == found["molora"]


@pytest.mark.parametrize("family", RENAMED)
def test_a_lora_on_layers_that_peft_would_rename_trains_and_loads(family, family_model, shaken, tmp_path):
    model = shaken(put_on(family_model(family), "lora", target_modules="all-linear"))
    expected = logits(model)
    assert not torch.allclose(expected, logits(family_model(family)), atol=1e-3)
    names = {row.name for row in adapted_modules(model)}
    assert not any(name.endswith("weight") for name in names)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(family_model(family), tmp_path).eval()), expected)
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("method", ["molora", "lora"])
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"exclude_modules": ["k_proj", "v_porj"]}, r"adapter\.exclude_modules: 'v_porj' .*Did you mean 'v_proj'"),
        ({"exclude_modules": "attention"}, r"adapter\.exclude_modules: 'attention' matches nothing"),
        ({"modules_to_save": ["lm_haed"]}, r"adapter\.modules_to_save: 'lm_haed' .*Did you mean 'lm_head'"),
        ({"layers_to_transform": [0, 2]}, r"adapter\.layers_to_transform: the model has no layer 2\. .*0 to 1"),
    ],
)
def test_limits_that_stand_for_nothing_are_refused(method, limits, message, tiny_model):
    with pytest.raises(TopicLoraError, match=message):
        solve(KINDS[METHODS[method].layer](method=method, **limits), tiny_model)


@pytest.mark.parametrize("method", ["molora", "lora"])
@pytest.mark.parametrize("limits", [{"exclude_modules": r".*\.0\..*"}, {"exclude_modules": ["mlp.up_proj", "lm_head"]}])
def test_limits_that_stand_for_something_hold(method, limits, tiny_model):
    solve(
        KINDS[METHODS[method].layer](method=method, modules_to_save=["norm"], layers_to_transform=[1], **limits),
        tiny_model,
    )


def test_limits_hold_for_layers_named_as_parameters(family_model):
    limits = {"layers_to_transform": [1], "exclude_modules": ["down_proj"]}
    model = put_on(family_model("deepseek_v3"), "lora", target_modules=["gate_proj", "down_proj"], **limits)
    assert adapted_by(model) == {"model.layers.1.mlp.shared_experts.gate_proj"}
    with pytest.raises(TopicLoraError, match=r"adapter\.lora_dropout does not work on"):
        put_on(family_model("deepseek_v3"), "lora", target_modules=["gate_proj"], lora_dropout=0.1)
