"""One law of alpha and rank for each method: whatever else gives a rank, the update's size stays the recipe's."""

from types import SimpleNamespace

import pytest
import yaml

from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
from topiclora_cli.adapters.counting import rank_of
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe, load_recipe, with_experts
from topiclora_cli.training.attach import attach, attach_adapter, solve


def section(method, **adapter):
    values = {"name": "x", "model": {"name": "m"}, "adapter": {"method": method, **adapter}}
    return build_recipe(values, where="here").adapter


def scales(config, model):
    """The scales that peft's own layers, or ours, work with."""
    layers = [module for module in attach(model, config).modules() if "q_proj" in getattr(module, "name", "q_proj")]
    peft_s = {layer.scaling["default"] for layer in layers if isinstance(getattr(layer, "scaling", None), dict)}
    ours = {layer.topiclora_config["default"].scale for layer in layers if hasattr(layer, "topiclora_config")}
    return sorted(peft_s | ours)


LAWS = {
    "lora": ({}, 2.0),
    "rslora": ({}, 16 / 8**0.5),
    "molora": ({}, 2.0),
    "molora, rank-stabilised": ({"use_rslora": True}, 16 / 8**0.5),
}


@pytest.mark.parametrize("change", [{}, {"r": 2}, {"r": 32}, {"budget": "total=20K"}], ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_a_rank_or_a_budget_leaves_the_scale_as_it_is(name, change, tiny_model):
    settings, wanted = LAWS[name]
    config = solve(section(name.split(",")[0], **settings, **change), tiny_model)
    assert (rank_of(config) == 8) == (not change)
    assert scales(config, tiny_model) == [pytest.approx(wanted)]


def test_ranks_by_depth_leave_the_scale_as_it_is(tiny_model):
    for settings, wanted in (({}, 2.0), ({"use_rslora": True}, 16 / 8**0.5)):
        config = solve(section("molora", ranks_by_depth=[2, 6], **settings), tiny_model)
        assert [config.at("q_proj", layer).r for layer in (0, 1)] == [2, 6]
        assert [config.at("q_proj", layer).scale for layer in (0, 1)] == [pytest.approx(wanted)] * 2


def test_an_adapter_saved_without_alphas_by_layer_keeps_the_scales_it_was_trained_with():
    config = TopicLoraConfig(r=8, lora_alpha=16, ranks_per_layer=[2, 8], target_modules=["q_proj"])
    assert [config.at("q_proj", layer).scale for layer in (0, 1)] == [8, 2]


def test_plain_modules_take_no_regular_expression(tiny_model):
    wanted = section("molora", plain_modules=r".*\.q_proj", target_modules=["q_proj", "v_proj"])
    with pytest.raises(TopicLoraError, match=r"adapter\.plain_modules takes names or a role.*or a role: all"):
        solve(wanted, tiny_model)
    with pytest.raises(TopicLoraError, match="plain_modules takes a list"):
        TopicLoraConfig(plain_modules="q_proj", target_modules=["q_proj", "v_proj"])


def test_total_keeps_alpha_at_twice_the_plain_loras_rank():
    assert section("topiclora").lora_alpha == 128
    assert section("topiclora", r=4, num_experts=4).lora_alpha == 32
    assert section("topiclora", shared_experts=4).lora_alpha == 192
    assert section("topiclora", ranks_by_depth=[4, 12, 8, 8], experts_by_depth=[2, 4]).lora_alpha == 2 * 24
    assert section("topiclora", num_experts="auto").lora_alpha == 128
    assert section("topiclora", lora_alpha=5.0, r=64).lora_alpha == 5
    assert section("topic-perft", scaling="total").lora_alpha == 2 * 8 * 16
    auto = {"name": "x", "model": {"name": "m"}, "adapter": {"num_experts": "auto", "r": 4}}
    assert with_experts(build_recipe(auto, where="here"), 5).adapter.lora_alpha == 2 * 5 * 4
    assert section("hydralora", scaling="total").lora_alpha == 2 * 4 * 2.5  # one A, and four B on square layers
    assert section("mola", scaling="total").lora_alpha == 2 * 8 * 5


def test_another_law_brings_the_alpha_that_it_had_before_there_was_total():
    assert (
        section("topiclora", scaling="expert").lora_alpha,
        section("topiclora", r=4, scaling="expert").lora_alpha,
    ) == (16, 8)
    assert section("topiclora", scaling="sqrt", r=2).lora_alpha == 16 * (2 / 8) ** 0.5
    assert section("mola", scaling="sqrt", r=2).lora_alpha == 16 * (2 / 8) ** 0.5


def test_the_older_name_of_sqrt_works_and_two_names_may_not_differ():
    for adapter in ({"use_rslora": True}, {"scaling": "sqrt"}, {"use_rslora": True, "scaling": "sqrt"}):
        for method in ("molora", "topiclora", "hmora"):
            made = section(method, **adapter)
            assert (made.scaling, made.use_rslora) == ("sqrt", True)
    assert (section("hmora").scaling, section("hmora", use_rslora=False).scaling) == ("sqrt", "expert")
    assert section("topiclora", use_rslora=False).scaling == "total"
    for law in ("total", "expert"):
        with pytest.raises(
            TopicLoraError, match=rf"use_rslora scales as scaling: sqrt does, and not as scaling: {law}"
        ):
            section("molora", use_rslora=True, scaling=law)
        with pytest.raises(TopicLoraError, match=rf"scaling: {law} does not.*Leave use_rslora out"):
            TopicLoraConfig(use_rslora=True, scaling=law)
    with pytest.raises(TopicLoraError, match=r"adapter\.scaling means nothing to lora"):
        section("lora", scaling="total")
    with pytest.raises(TopicLoraError, match=r"adapter\.scaling means nothing here: adapter\.init_from"):
        section("molora", init_from=["a", "b"], scaling="total")
    with pytest.raises(TopicLoraError, match=r"scaling 'totl' is unknown.*'total'"):
        TopicLoraConfig(scaling="totl")


def test_a_configuration_without_the_key_scales_every_expert_as_it_did():
    assert TopicLoraConfig(r=4, lora_alpha=8, top_k=1).scale == 2
    assert TopicLoraConfig(r=4, lora_alpha=8, use_rslora=True).scale == 4
    assert PerftConfig(r=4, lora_alpha=8, variant="dense").scale == 2
    saved = {**TopicLoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj"]).to_dict()}
    del saved["scaling"]
    assert TopicLoraConfig.from_peft_type(**saved).scale == 4


@pytest.mark.parametrize(
    ("settings", "gates"),
    [
        ({}, 1),
        ({"top_k": 2}, 1),
        ({"top_k": 1}, 1 / 8),
        ({"top_k": 8}, 1),
        ({"top_p": 0.7}, 6 / 8),
        ({"top_p": 0.25}, 2 / 8),
        ({"top_p": 1.0}, 1),
        ({"top_k": 2, "gate_weights": "probability"}, 2 / 8),
        ({"top_k": 1, "gate_weights": "constant"}, 1),
        ({"top_k": 2, "shared_experts": 3}, 4),
        ({"top_k": 1, "shared_experts": 3, "shared_gate": "softmax"}, 1),
        ({"plain_modules": ["q_proj"], "top_k": 1, "shared_experts": 3}, 1),
    ],
    ids=str,
)
def test_total_counts_what_the_gates_sum_to(settings, gates):
    config = TopicLoraConfig(r=4, num_experts=8, lora_alpha=64, scaling="total", **settings).at("q_proj", 0)
    assert config.gates_at_start == pytest.approx(gates)
    assert config.scale * config.r * gates == pytest.approx(64)


def test_total_counts_perfts_gates_or_says_that_it_cannot():
    made = {"r": 4, "lora_alpha": 32, "scaling": "total"}
    for settings, gates in (
        ({}, 1),
        ({"renormalize": "off"}, 2 / 8),
        ({"top_k": 1}, 1 / 8),
        ({"shared_adapters": 2}, 3),
        ({"variant": "dense", "num_adapters": 3}, 3),
        ({"variant": "shared"}, 1),
    ):
        assert PerftConfig(**made, **settings).scale == pytest.approx(8 / gates)
    assert PerftConfig(**made, adapter_type="parallel").scale == 1
    for settings in ({"variant": "embedded"}, {"router_weight_source": "pretrained"}):
        with pytest.raises(TopicLoraError, match="the pretrained router's are the base model's own"):
            PerftConfig(**made, **settings)


def test_total_has_no_scale_where_gates_act_on_half_of_a_block():
    ffn = {"mixing": "ffn", "router_scope": "block", "scaling": "total"}
    for settings in ({"top_k": 1}, {"top_p": 0.5}, {"top_k": 2, "gate_weights": "probability"}):
        with pytest.raises(TopicLoraError, match="no scale for mixing: ffn"):
            TopicLoraConfig(**ffn, **settings)
    assert TopicLoraConfig(**ffn, top_k=2, shared_experts=1).scale > 0


def test_a_run_of_an_earlier_version_keeps_its_scale(tmp_path):
    for method, adapter, law, alpha in (
        ("topiclora", {}, "expert", 16),
        ("topiclora", {"r": 4}, "expert", 8),
        ("topiclora", {"use_rslora": True}, "sqrt", 16),
        ("hmora", {}, "sqrt", 8),
        ("mola", {}, "expert", 16),
        ("rslora", {}, None, 16),  # peft's LoRA has no law but use_rslora
    ):
        said = {"name": "x", "model": {"name": "m"}, "adapter": {"method": method, **adapter}}
        resolved = build_recipe(said, where="here").model_dump(mode="json")
        for later in ("scaling", "gate_weights"):
            resolved["adapter"].pop(later, None)
        resolved["adapter"]["lora_alpha"] = float(alpha)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**resolved, "said": said}))
        opened = load_recipe(str(path)).adapter
        assert (getattr(opened, "scaling", None), opened.lora_alpha) == (law, alpha)
        assert opened.use_rslora == (method == "rslora" or law == "sqrt")


class Said(list):
    """A display that keeps what is said."""

    say = list.append

    def table(self, *_):
        """Shows nothing."""


@pytest.mark.parametrize(
    ("method", "adapter", "warned"),
    [
        ("molora", {"scaling": "total"}, "adapter.scaling: total, where molora has expert in its paper"),
        ("hmora", {"scaling": "expert"}, "adapter.scaling: expert, where hmora has sqrt in its paper"),
        ("hmora", {}, ""),
        ("topiclora", {"scaling": "expert"}, ""),
        ("rslora", {}, ""),
    ],
)
def test_a_law_that_is_not_the_papers_is_said(method, adapter, warned, tiny_model):
    adapter = {"method": method, "r": 2, "target_modules": ["q_proj", "v_proj"], **adapter}
    recipe = build_recipe({"name": "x", "model": {"name": "m"}, "adapter": adapter}, where="here")
    said = Said()
    attach_adapter(SimpleNamespace(model=tiny_model, source="m", name=None), recipe, total_steps=1, progress=said)
    warnings = [line for line in said if line.startswith("Warning: scaled by")]
    assert len(warnings) == bool(warned)
    assert warned in "".join(warnings)
