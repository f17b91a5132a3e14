"""Presets: what a method brings, what a recipe keeps, and what changing the method does."""

import pytest
import yaml

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, build_recipe, load_recipe, with_overrides
from topiclora_cli.recipe.methods import METHODS


def recipe(method, **sections):
    sections["adapter"] = {"method": method, **sections.get("adapter", {})}
    if method == "xlora":
        sections["adapter"].setdefault("init_from", ["a"])
    return build_recipe({"name": "x", "model": {"name": "m"}, **sections}, where="here")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_fills_a_valid_recipe(name):
    built, method = recipe(name), METHODS[name]
    for section in ("adapter", "loss", "train"):
        for key, value in method.values(section).items():
            assert getattr(getattr(built, section), key) == value


def test_only_the_topical_methods_train_with_a_prior_by_themselves():
    assert [name for name in METHODS if recipe(name).loss.kl_weight > 0] == ["topic-perft", "topiclora"]
    assert [name for name in METHODS if recipe(name).needs_graph] == ["topic-perft", "topiclora"]
    assert recipe("molora", loss={"kl_weight": 0.1}).needs_graph


def test_what_the_recipe_says_wins():
    built = recipe("mola", adapter={"experts_by_depth": [4], "lora_dropout": 0.0}, train={"learning_rate": 1e-3})
    assert built.adapter.experts_by_depth == [4]
    assert built.adapter.lora_dropout == 0
    assert built.adapter.top_k == 2
    assert built.train.learning_rate == 1e-3


def test_a_rank_alone_keeps_the_methods_scaling():
    assert recipe("hydralora", adapter={"r": 8}).adapter.lora_alpha == 64
    assert recipe("hydralora", adapter={"r": 8, "lora_alpha": 1.0}).adapter.lora_alpha == 1


def test_changing_the_method_drops_what_the_old_one_brought_and_keeps_the_users_own():
    before = recipe("topiclora", adapter={"top_k": 3, "r": 8}, loss={"kl_weight": 0.5}, train={"learning_rate": 1e-3})
    values = with_overrides(before.model_dump(), [("loss.z_weight", 0.1), ("adapter.method", "hydralora")])
    after = build_recipe(values, where="here")
    assert (after.adapter.r, after.adapter.lora_alpha, after.adapter.num_experts) == (4, 32, 4)
    assert after.adapter.router == "linear"
    assert after.adapter.top_k == 3
    assert after.loss.kl_weight == 0
    assert after.loss.z_weight == 0.1
    assert after.train.learning_rate == 1e-3


def test_a_resolved_recipe_is_its_own_fixed_point(tmp_path):
    before = recipe("mixlora", adapter={"r": 4})
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(before.model_dump(mode="json")))
    assert load_recipe(str(path)) == before


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"method": "mixlroa"}, "adapter.method: unknown method.*'mixlora'"),
        ({"method": "xlora", "init_from": None}, "adapter.init_from"),
        ({"method": "mola", "top_k": 3}, r"top_k \(3\) cannot exceed num_experts \(2\)"),
        ({"top_k": 1, "top_p": 0.5}, "exclude one another"),
        ({"budget": "total=4,2M"}, "adapter.budget"),
        ({"budget": "total=4M", "ranks_by_depth": [1, 2]}, "one rank"),
        ({"experts_by_depth": [0]}, "at least 1"),
    ],
)
def test_mistakes_name_the_key(adapter, message):
    with pytest.raises(TopicLoraError, match=message):
        build_recipe({"name": "x", "model": {"name": "m"}, "adapter": adapter}, where="here")


def test_a_bare_recipe_object_is_topiclora():
    assert Recipe(name="x", model={"name": "m"}).adapter.method == "topiclora"


@pytest.mark.parametrize("old", METHODS)
def test_every_method_can_be_left_for_another(old):
    values = with_overrides(recipe(old).model_dump(), [("adapter.method", "lora"), ("adapter.init_from", None)])
    assert build_recipe(values, where="here").adapter.model_dump() == recipe("lora").adapter.model_dump()
