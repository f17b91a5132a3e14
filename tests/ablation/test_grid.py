"""Cells are the recipe with a few keys changed, checked before anything runs."""

import pytest

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.runner import check_grid
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import altered, build_recipe, load_recipe
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.topics.controls import group_labels
from topiclora_cli.topics.settings import CONTROLS
from topiclora_cli.topics.taxonomy import load_taxonomy


def recipe(**ablation):
    return build_recipe({"name": "x", "model": {"name": "m"}, "ablation": ablation}, where="test")


def test_grid_is_cells_by_seeds_with_the_full_recipe_first():
    grid = make_grid(recipe(cells={"kl_off": {"loss.kl.weight": 0}}, seeds=[3, 4], overrides={"train.max_steps": 7}))
    assert [cell.folder for cell in grid] == ["full-s3", "kl_off-s3", "full-s4", "kl_off-s4"]
    assert {cell.recipe.train.max_steps for cell in grid} == {7}
    assert [cell.recipe.loss.kl.weight for cell in grid] == [0.1, 0, 0.1, 0]
    assert [cell.recipe.seed for cell in grid] == [3, 3, 4, 4]


def test_quickstart_grid_has_the_cells_that_question_the_method():
    names = {cell.name for cell in make_grid(load_recipe("quickstart"))}
    assert {"full", "kl_off", "gnn_off", "random_graph", "router_linear"} <= names


# PERFT and its baselines are for sparse bases, and the recipe's base is dense.
PERFT = [name for name, method in METHODS.items() if method.layer == "perft"]
NOT_COMPARED = {"xlora", "lora-qv", "lora-router", "lora-experts", *PERFT}


def test_baselines_compare_every_method_at_one_budget_and_rate():
    grid = {cell.name: cell.recipe for cell in make_grid(load_recipe("baselines"))}
    assert {r.adapter.method for r in grid.values()} == set(METHODS) - NOT_COMPARED
    assert {(r.adapter.budget, r.train.learning_rate) for r in grid.values()} == {("total=9.8M", 1e-3)}
    assert [name for name, r in grid.items() if r.loss.kl.weight > 0] == ["full"]
    assert grid["hydralora"].adapter.shared_a
    assert grid["hydralora"].adapter.top_k is None


def test_topic_controls_change_stage_1_and_nothing_else():
    grid = {cell.name: cell.recipe for cell in make_grid(load_recipe("topic-controls"))}
    assert [name for name, r in grid.items() if r.graph.gnn == "none"] == ["gnn_off"]
    assert {name: r.graph.control for name, r in grid.items() if r.graph.control != "none"} == {
        name: name for name in CONTROLS if name != "none"
    }
    assert {r.graph.compare_seeds for r in grid.values()} == {0}
    # An even prior has no confidence, which would leave its KL no weight.
    assert [name for name, r in grid.items() if not r.loss.kl.confidence_weighted] == ["uniform"]
    same = [r.model_dump(exclude={"graph": True, "loss": {"kl": {"confidence_weighted"}}}) for r in grid.values()]
    assert all(rest == same[0] for rest in same)
    # The controls all suit the taxonomy; `groups` does not suit every one.
    assert len(group_labels(load_taxonomy(grid["groups"].graph.taxonomy), grid["groups"].adapter.num_experts)) == 52


def test_mistakes():
    with pytest.raises(TopicLoraError, match=r"ablation\.cells\.bad: seed is ablation\.seeds' to say"):
        make_grid(recipe(cells={"bad": {"seed": 3}}))
    with pytest.raises(TopicLoraError, match=r"ablation\.cells\.bad: unknown key 'loss\.kl_wait'"):
        make_grid(recipe(cells={"bad": {"loss.kl_wait": 0}}))
    with pytest.raises(TopicLoraError, match="Did you mean 'full'"):
        make_grid(recipe(), only=["ful"])
    for name in ("..", "a/b", ".hidden", ""):
        with pytest.raises(TopicLoraError, match="a cell's name is a folder's: no slash, and no dot at its start"):
            recipe(cells={name: {}})
    tuned = recipe(cells={"lora": {"adapter.method": "lora"}}, tune={"adapter.top_k": [1, 2]})
    with pytest.raises(TopicLoraError, match=r"ablation\.tune of lora: adapter\.top_k means nothing to lora"):
        make_grid(altered(tuned, [("data.validation", 8)], where="x"))


@pytest.mark.parametrize(
    ("key", "values", "name"),
    [
        ("train.learning_rate", [0.1, 0.0012345678, 0.0012345679], "learning_rate=0.00123457"),
        ("graph.taxonomy", ["my/topics.yaml", "my topics.yaml"], "taxonomy=my_topics.yaml"),
        ("loss.kl.weight", [0.10000001, 0.1], "kl_weight=0.1"),
    ],
)
def test_two_values_to_tune_that_one_folder_would_hold_are_refused(key, values, name):
    tuned = altered(recipe(tune={key: values}), [("data.validation", 8)], where="x")
    with pytest.raises(TopicLoraError, match=f"ablation.tune: two values of {key} would be called '{name}'. Leave"):
        make_grid(tuned)


def test_cells_whose_settings_fit_no_model_are_told_before_any_is_trained(tmp_path):
    cells = {"plain": {}, "spectrum": {"adapter.init": "svd", "adapter.shared_a": True}}
    with pytest.raises(TopicLoraError, match=r"ablation\.cells\.spectrum: init: svd starts each expert's A apart"):
        check_grid(make_grid(recipe(cells=cells)), tmp_path)
