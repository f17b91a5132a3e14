"""Cells of other methods and sizes: as large as the recipe's own adapter, and starting as steeply."""

import pytest

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.stages.counted import count, open_skeleton

# As large an adapter as the tiny model takes, so that ranks have room.
SIZES = {"adapter__r": 16, "adapter__target_modules": "all-linear", "adapter__router_scope": "layer"}


def counted(recipe, model):
    skeleton = open_skeleton(str(model), config_only=False, upcycle=None)
    return {cell.name: (cell.recipe, count(cell.recipe.adapter, skeleton)) for cell in make_grid(recipe)}


@pytest.mark.slow
def test_baselines_have_one_total_or_one_activated_size_and_one_slope(made, tiny_model_dir):
    recipe, notes = made("baselines", **SIZES, loss__kl__weight=0.5, train__router_learning_rate=0.01)
    cells = counted(recipe, tiny_model_dir)
    own = cells["full"][1]
    assert {r.adapter.method for r, _ in cells.values()} == {
        *(
            "topiclora",
            "lora",
            "rslora",
            "dora",
            "adalora",
            "lora+",
            "molora",
            "mola",
            "hydralora",
            "loramoe",
            "adamole",
        ),
        *("mixlora", "hmora", "gmoe", "samora", "ldmole"),
    }
    for name, (cell, size) in cells.items():
        activated = name.endswith("-activated")
        mine, wanted = (size.activated, own.activated) if activated else (size.total, own.total)
        assert mine == pytest.approx(wanted, rel=0.3), name  # ranks are whole numbers
        if cell.adapter.method not in ("rslora", "adalora"):
            assert size.first_step == pytest.approx(own.first_step, rel=0.1), name
        if name != "full":
            assert cell.loss.kl.weight == 0, name
            # What the recipe says of its own method is not the other's.
            if cell.adapter.layer == "mixture":
                assert cell.adapter.num_experts == METHODS[cell.adapter.method].adapter.get("num_experts", 8), name
                assert cell.train.router_learning_rate is None
    assert any("--tune train.learning_rate" in note for note in notes)


def test_on_a_sparse_base_the_baselines_are_of_the_perft_family(made, tiny_moe_dir):
    of_perft = {"method": "perft-r", "r": 2, "budget": "total=30K"}
    recipe, _ = made("baselines", model__name=str(tiny_moe_dir), adapter=of_perft)
    assert {"perft-e", "perft-d", "perft-s", "topic-perft", "lora", "lora-qv", "lora-experts"} <= set(
        recipe.ablation.cells
    )
    assert "perft-r" not in recipe.ablation.cells


def test_shares_of_the_base_are_spread_over_as_many_upper_layers_as_hold_them(made, tiny_model_dir):
    recipe, notes = made("budget", **{**SIZES, "adapter__num_experts": 2, "adapter__router": "linear"})
    skeleton = open_skeleton(str(tiny_model_dir), config_only=False, upcycle=None)
    base = sum(p.numel() for p in skeleton.model.parameters())
    cells = counted(recipe, tiny_model_dir)
    assert "full-budget=0.1%" not in cells
    assert any(note.startswith("budget: 0.1 % of the base is less than one layer") for note in notes)
    for series in ("full", "lora"):
        _, size = cells[f"{series}-budget=10%"]
        assert size.total == pytest.approx(0.1 * base, rel=0.25)
        assert size.first_step == pytest.approx(cells["full"][1].first_step, rel=0.1)
    assert (
        cells["full-budget=3%"][0].adapter.layers_to_transform
        == cells["lora-budget=3%"][0].adapter.layers_to_transform
        == [1]
    )


def test_parts_of_the_data_are_trained_for_as_many_epochs_or_as_many_steps(made):
    recipe, _ = made("scaling", train__max_steps=None, train__epochs=2)
    grid = {cell.name: cell.recipe for cell in make_grid(recipe)}
    assert (grid["full-data=1_8"].data.fraction, grid["full-data=1_8"].train.epochs) == (1 / 8, 2)
    assert (grid["lora_same_steps-data=1_16"].data.fraction, grid["lora_same_steps-data=1_16"].train.epochs) == (
        1 / 16,
        32,
    )
    stepped, _ = made("scaling", train__max_steps=8, data__fraction=0.5)
    grid = {cell.name: cell.recipe for cell in make_grid(stepped)}
    assert (grid["full-data=1_4"].data.fraction, grid["full-data=1_4"].train.max_steps) == (1 / 8, 2)
    assert (grid["full_same_steps-data=1_4"].data.fraction, grid["full_same_steps-data=1_4"].train.max_steps) == (
        1 / 8,
        8,
    )
    with pytest.raises(TopicLoraError, match="a stream has no size"):
        made("scaling", data__streaming=True)


def test_one_factor_is_changed_at_a_time_and_ranks_with_the_experts_at_one_size(made, tiny_model_dir):
    recipe, _ = made("hyper", **{**SIZES, "adapter__r": 8})
    cells = counted(recipe, tiny_model_dir)
    own = cells["full"][1]
    assert cells["r=4"][1].total < 0.6 * own.total < 1.2 * own.total < cells["r=16"][1].total
    fewer, size = cells["r_at_one_size=16"]
    assert (fewer.adapter.num_experts, size.rank) == (2, pytest.approx(16, abs=1))
    assert size.total == pytest.approx(own.total, rel=0.1)
    for name in ("r=4", "r=16", "r_at_one_size=4", "r_at_one_size=16"):
        assert cells[name][1].first_step == pytest.approx(own.first_step, rel=0.05), name
    weights = {name: cell for name, (cell, _) in cells.items() if name.startswith("kl.weight=")}
    # The floor keeps its part of the weight; the recipe's own 0.1 is no cell.
    assert {name: cell.loss.kl.floor for name, cell in weights.items()} == pytest.approx(
        {
            "kl.weight=0": 0.01,
            "kl.weight=0.01": 0.001,
            "kl.weight=0.05": 0.005,
            "kl.weight=0.5": 0.05,
            "kl.weight=1": 0.1,
        }
    )


def test_a_recipe_of_lora_is_scaled_alone_and_has_no_topics_to_vary(made):
    recipe, _ = made("scaling", adapter={"method": "lora"})
    assert all(name.startswith("full") for name in recipe.ablation.cells)
    with pytest.raises(TopicLoraError, match="this recipe trains lora without topics"):
        made("hyper", adapter={"method": "lora"})
