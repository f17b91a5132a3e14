"""One law of alpha and rank for each method: whatever else gives a rank, the update's size stays the recipe's."""

import pytest

from topiclora_cli.adapters.counting import rank_of
from topiclora_cli.adapters.topiclora import TopicLoraConfig
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.training.attach import attach, solve


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
