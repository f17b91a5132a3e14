"""The recipe without each of its parts: one key a cell, at one size, and refused where there are no parts."""

import pytest

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.adapter import LoraSection
from topiclora_cli.stages.counted import count, open_skeleton


def test_every_part_has_a_cell_and_every_cell_a_question(made):
    recipe, notes = made("components")
    cells = recipe.ablation.cells
    assert {"lora", "gnn_off", "separation_off", "kl_off", "kl_reverse", "kl_js", "kl_constant", "kl_no_floor"} < set(
        cells
    )
    assert {"hard_label", "random_graph", "shuffled", "uniform", "router_learned", "shared_4", "scale_sqrt"} < set(
        cells
    )
    assert recipe.ablation.about.keys() == cells.keys()
    assert all(question.endswith("?") for question in recipe.ablation.about.values())
    assert recipe.ablation.reference == "full"
    # What the recipe has already, its own direction and law, is no cell.
    assert notes == []


def test_cells_of_another_size_have_the_recipes_own_size_and_slope(made, tiny_model_dir):
    recipe, _ = made("components", adapter__r=6)
    grid = {cell.name: cell.recipe for cell in make_grid(recipe)}
    skeleton = open_skeleton(str(tiny_model_dir), config_only=False, upcycle=None)
    own, lora, shared = (count(grid[name].adapter, skeleton) for name in ("full", "lora", "shared_4"))
    assert isinstance(grid["lora"].adapter, LoraSection)
    assert lora.total == pytest.approx(own.total, rel=0.1)
    assert shared.total == pytest.approx(own.total, rel=0.1)
    assert lora.first_step == pytest.approx(own.first_step)
    assert shared.first_step == pytest.approx(own.first_step, rel=0.02)


def test_without_a_kl_the_cells_on_it_are_left_out_with_a_note(made):
    recipe, notes = made("components", loss__kl__weight=0.0)
    assert not {"kl_off", "kl_js", "hard_label"} & set(recipe.ablation.cells)
    assert notes == ["components: The cells on the KL term are left out: loss.kl.weight is 0 in this recipe."]


def test_a_recipe_without_topics_is_refused_in_one_line(made):
    with pytest.raises(TopicLoraError, match="this recipe trains lora without topics"):
        made("components", adapter={"method": "lora"})


def test_topics_beside_a_sparse_bases_experts_have_the_same_parts(made, tiny_moe_dir):
    recipe, notes = made(
        "components", model__name=str(tiny_moe_dir), adapter={"method": "topic-perft", "num_experts": 4}
    )
    assert {"lora", "gnn_off", "kl_off", "uniform", "router_learned", "shared_4"} <= set(recipe.ablation.cells)
    assert not any("left out" in note for note in notes)
