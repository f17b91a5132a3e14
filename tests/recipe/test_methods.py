"""Presets: what a method brings, what a recipe keeps, and what changing the method does."""

from operator import attrgetter

import pytest
import yaml
from pydantic import ValidationError

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, altered, build_recipe, differences, dump_recipe, load_recipe
from topiclora_cli.recipe.adapter import FIELDS, KINDS, every_key
from topiclora_cli.recipe.fill import said_keys
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.recipe.methods import METHODS, SECTIONS


def recipe(method, **sections):
    sections["adapter"] = {"method": method, **sections.get("adapter", {})}
    if method == "xlora":
        sections["adapter"].setdefault("init_from", ["a"])
    return build_recipe({"name": "x", "model": {"name": "m"}, **sections}, where="here")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_fills_a_valid_recipe(name):
    built, method = recipe(name), METHODS[name]
    resolved, own = said_keys(built.model_dump()), said_keys({name: method.values(name) for name in SECTIONS})
    own = {key: value for key, value in own.items() if value != {}}  # a section that the method leaves alone
    assert {key: resolved[key] for key in own} == own


def test_only_the_topical_methods_train_with_a_prior_by_themselves():
    assert [name for name in METHODS if recipe(name).loss.kl.weight > 0] == ["topic-perft", "topiclora"]
    assert [name for name in METHODS if recipe(name).needs_graph] == ["topic-perft", "topiclora"]
    assert recipe("molora", loss={"kl": {"weight": 0.1}}).needs_graph


def test_what_the_recipe_says_wins():
    built = recipe("mola", adapter={"experts_by_depth": [4], "lora_dropout": 0.0}, train={"learning_rate": 1e-3})
    assert built.adapter.experts_by_depth == [4]
    assert built.adapter.lora_dropout == 0
    assert built.adapter.top_k == 2
    assert built.train.learning_rate == 1e-3


def test_a_rank_alone_keeps_the_methods_scaling():
    assert recipe("hydralora", adapter={"r": 8}).adapter.lora_alpha == 64
    assert recipe("hydralora", adapter={"r": 8, "lora_alpha": 1.0}).adapter.lora_alpha == 1


SAID = {
    "adapter": {"r": 8, "num_experts": 8, "lora_alpha": 16.0},
    "loss": {"kl": {"weight": 0.3, "temperature": 2.0}, "balance": {"weight": 0.01}},
    "train": {"learning_rate": 2e-4},
}


@pytest.mark.parametrize("name", ["hydralora", "molora", "topiclora"])
def test_a_method_fills_in_only_what_is_left_open_wherever_it_is_named(name, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "model": {"name": "m"}, **SAID}))
    over = load_recipe(str(path), [f"adapter.method={name}"])
    assert over == recipe(name, **SAID)
    resolved = said_keys(over.model_dump())
    assert {key: resolved[key] for key in said_keys(SAID)} == said_keys(SAID)
    assert over.adapter.shared_a == (name == "hydralora")


def test_a_method_after_a_method_starts_from_what_was_said():
    before = recipe("topiclora", adapter={"top_k": 3}, loss={"kl": {"weight": 0.5}}, train={"learning_rate": 1e-3})
    after = altered(before, [("loss.z.weight", 0.1), ("adapter.method", "hydralora")], where="here")
    assert (after.adapter.r, after.adapter.lora_alpha, after.adapter.num_experts) == (4, 32, 4)
    assert (after.adapter.router, after.adapter.top_k) == ("linear", 3)
    assert (after.loss.kl.weight, after.loss.z.weight, after.train.learning_rate) == (0.5, 0.1, 1e-3)
    # What means nothing to a method in between is not forgotten.
    there = altered(before, [("adapter.method", "lora")], where="here")
    assert (hasattr(there.adapter, "top_k"), there.loss.kl.weight) == (False, 0)
    assert altered(there, [("adapter.method", "topiclora")], where="here") == before


def test_a_resolved_recipe_is_its_own_fixed_point_and_knows_what_was_said(tmp_path):
    before = recipe("mixlora", adapter={"r": 4}, loss={"kl": {"weight": 0.2}})
    path = tmp_path / "again.yaml"
    path.write_text(dump_recipe(before))
    again = load_recipe(str(path))
    assert again == before
    assert again.said == before.said
    assert load_recipe(str(path), ["adapter.method=mola"]) == recipe(
        "mola", adapter={"r": 4}, loss={"kl": {"weight": 0.2}}
    )


def test_a_value_changed_by_hand_in_a_resolved_recipe_counts(tmp_path):
    path = tmp_path / "again.yaml"
    path.write_text(dump_recipe(recipe("mixlora")).replace("  r: 16\n", "  r: 4\n"))
    again = load_recipe(str(path))
    assert (again.adapter.r, again.adapter.lora_alpha) == (4, 32)
    assert load_recipe(str(path), ["adapter.method=mola"]).adapter.r == 4


def test_a_resolved_recipe_that_has_lost_what_was_said_opens(tmp_path):
    before = recipe("hydralora", loss={"kl": {"weight": 0.2}})
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(before.model_dump(mode="json")))
    assert load_recipe(str(path)).model_dump() == before.model_dump()
    assert load_recipe(str(path), ["adapter.method=molora"]).adapter == recipe("molora").adapter


@pytest.mark.parametrize("name", [name for name in METHODS if name != "xlora"])
def test_what_an_earlier_version_filled_in_and_never_read_keeps_no_run_shut(name, tmp_path):
    before = recipe(name)
    values = before.model_dump(mode="json")
    values["adapter"] = every_key(values["adapter"])  # it had the keys of all kinds of adapter in one
    values["loss"]["local_balance"]["delta"] = 0.1  # its default, whether there were priors or not
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(values))
    opened = load_recipe(str(path), ["eval.limit=3"])
    assert opened.adapter == before.adapter
    assert opened.loss.local_balance.delta == (0.1 if before.needs_graph else 0.0)
    assert load_recipe(str(path), ["adapter.method=molora"]).loss.local_balance.delta == 0.0


@pytest.mark.parametrize(("name", "key"), [("adamole", "balance.scores"), ("samora", "centre.weight")])
def test_what_a_method_asks_of_its_own_router_goes_with_it(name, key):
    value, (term, setting) = attrgetter(key), key.split(".")
    own, default = value(recipe(name).loss), value(LossSection())
    assert own != default
    other = recipe(name, adapter={"router": "linear"})
    assert value(other.loss) == default
    with pytest.raises(TopicLoraError, match=rf"loss\.{key} means nothing to the linear router"):
        recipe(name, adapter={"router": "linear"}, loss={term: {setting: own}})


def test_a_types_delta_is_left_out_by_a_method_without_priors():
    topical = recipe("topiclora", loss={"local_balance": {"weight": 0.1, "delta": 0.2}})
    assert topical.loss.local_balance.delta == 0.2
    other = altered(topical, [("adapter.method", "molora")], where="here")
    assert (other.loss.local_balance.weight, other.loss.local_balance.delta) == (0.1, 0.0)
    assert altered(other, [("loss.kl.weight", 0.1)], where="here").loss.local_balance.delta == 0.2


@pytest.mark.parametrize(
    ("adapter", "key"),
    [
        ({"method": "topiclora", "use_dora": True}, "use_dora"),
        ({"method": "topiclora", "variant": "dense"}, "variant"),
        ({"method": "lora", "router": "linear"}, "router"),
        ({"method": "lora", "top_k": 2}, "top_k"),
        ({"method": "lora", "train_experts": False}, "train_experts"),
        ({"method": "adalora", "use_rslora": True}, "use_rslora"),
        ({"method": "xlora", "init_from": ["a"], "r": 64}, "r"),
        ({"method": "xlora", "init_from": ["a"], "target_modules": ["q_proj"]}, "target_modules"),
        ({"method": "mola", "num_experts": 4}, "num_experts"),
        ({"method": "adamole", "top_k": 2}, "top_k"),
        ({"method": "molora", "router_width": 16}, "router_width"),
        ({"method": "molora", "router": "uniform", "router_dropout": 0.1}, "router_dropout"),
        ({"method": "molora", "router": "static", "router_init": "normal"}, "router_init"),
        ({"method": "molora", "init_from": ["a"], "r": 4}, "r"),
        ({"method": "molora", "init_from": ["a"], "init": "svd"}, "init"),
        ({"method": "perft-r", "init": "svd"}, "init"),
        ({"method": "lora", "init": "orthogonal"}, "init"),
        ({"method": "perft-r", "shared_a": True}, "shared_a"),
        ({"method": "perft-e", "num_experts": 4}, "num_experts"),
        ({"method": "perft-r", "adapter_type": "parallel", "lora_alpha": 4.0}, "lora_alpha"),
    ],
)
def test_a_setting_that_means_nothing_to_the_method_is_named(adapter, key, tmp_path):
    message = rf"adapter\.{key} means nothing .*Leave adapter\.{key} out"
    values = {"name": "x", "model": {"name": "m"}, "adapter": adapter}
    with pytest.raises(TopicLoraError, match=message):
        build_recipe(values, where="here")
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(TopicLoraError, match=message):
        load_recipe(str(path), ["train.max_steps=2"])
    # One layer that says both is told; a recipe's setting beside another's method is the recipe's.
    other = recipe("topiclora")
    with pytest.raises(TopicLoraError, match=message):
        altered(other, [(f"adapter.{name}", value) for name, value in adapter.items()], where="here")


def test_a_key_that_several_kinds_of_adapter_have_is_the_same_key_in_all():
    for kind in KINDS.values():
        for key, field in kind.model_fields.items():
            assert (field.annotation, field.default) == (FIELDS[key].annotation, FIELDS[key].default), key


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_has_the_kind_of_adapter_that_carries_its_method_and_no_other_keys(method):
    section = recipe(method).adapter
    assert type(section) is KINDS[METHODS[method].layer]
    foreign = next(key for key in FIELDS if key not in type(section).model_fields)
    with pytest.raises(ValidationError, match=foreign):
        Recipe.model_validate({"name": "x", "model": {"name": "m"}, "adapter": {"method": method, foreign: None}})


def test_settings_of_losses_and_rates_that_mean_nothing_are_named():
    for method, sections in (
        ("lora", {"loss": {"kl": {"floor": 0.1}}}),
        ("perft-d", {"train": {"router_learning_rate": 1}}),
    ):
        with pytest.raises(TopicLoraError, match=rf"means nothing to {method}, which has no route"):
            recipe(method, **sections)
    assert recipe("lora", loss={"kl": {"weight": 0.0}, "base_balance": {"weight": 0.1}}).loss.base_balance.weight == 0.1


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"method": "mixlroa"}, "adapter.method: unknown method.*'mixlora'"),
        ({"method": "xlora", "init_from": None}, "adapter.init_from"),
        ({"method": "mola", "top_k": 3}, r"top_k \(3\) cannot exceed num_experts \(2\)"),
        ({"top_k": 1, "top_p": 0.5}, "exclude one another"),
        ({"budget": "total=4,2M"}, "adapter.budget: write total=4.2M"),
        ({"budget": "total=1%M"}, "activated=500K or total=1%"),
        ({"budget": "total=4M", "ranks_by_depth": [1, 2]}, "one rank"),
        ({"experts_by_depth": [0]}, "at least 1"),
        ({"experts_by_depth": {"low": 2}}, "adapter.experts_by_depth: Input should be a valid list"),
        ({"ranks_by_depth": {"low": 2}}, "adapter.ranks_by_depth: Input should be a valid list"),
    ],
)
def test_mistakes_name_the_key(adapter, message):
    with pytest.raises(TopicLoraError, match=message):
        build_recipe({"name": "x", "model": {"name": "m"}, "adapter": adapter}, where="here")


def test_a_bare_recipe_object_is_topiclora():
    assert Recipe(name="x", model={"name": "m"}).adapter.method == "topiclora"


@pytest.mark.parametrize("old", METHODS)
def test_every_method_can_be_left_for_another(old):
    after = altered(recipe(old), [("adapter.method", "lora")], where="here")
    assert after.adapter == recipe("lora").adapter


def test_a_section_that_is_none_is_said_to_be_one():
    with pytest.raises(TopicLoraError, match=r"here: adapter: a section, whose keys stand below it \(given: 5\)"):
        build_recipe({"name": "x", "model": {"name": "m"}, "adapter": 5}, where="here")


def test_runs_of_two_kinds_of_adapter_differ_in_what_the_other_kind_has_too():
    changed = differences(recipe("topiclora"), recipe("dora"))
    assert (changed["adapter.method"], changed["adapter.use_dora"]) == ("dora", True)
    assert "adapter.top_k" not in changed
    assert "adapter.init_lora_weights" not in changed  # at its default, it is no change
