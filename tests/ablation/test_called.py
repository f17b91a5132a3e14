"""A cell is found by what the command line would call it, whatever it is called in the grid."""

import pytest

from topiclora_cli.ablation.asking import Asked, ask
from topiclora_cli.ablation.axes import parse_axes
from topiclora_cli.ablation.called import as_in_grid
from topiclora_cli.recipe import build_recipe


def recipe(**ablation):
    values = {"name": "x", "model": {"name": "m"}, "adapter": {"r": 4, "top_k": 2}, "data": {"per_family": 4}}
    return build_recipe({**values, "ablation": ablation}, where="here")


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("r=8-kl_weight=0", "r=8-kl_weight=0"),
        ("r=4-kl_weight=0.1", "full"),
        ("r=4-kl_weight=0", "r=4-kl_weight=0"),
        ("r=4", "r=4"),  # no axis that is alone in this grid
        ("r=9-kl_weight=0", "r=9-kl_weight=0"),
        ("", ""),
    ],
)
def test_a_cell_of_a_product_that_is_the_recipe_itself_is_full(name, cell):
    settings, _ = ask(recipe(base=True), Asked(axes=parse_axes(["adapter.r=4,8", "loss.kl.weight=0,0.1"])))
    assert as_in_grid(settings, name) == cell


def test_a_cell_of_one_axis_is_found_and_none_that_changes_more():
    axes = parse_axes(["adapter.r=4,8", "adapter.top_k=1,2"])
    settings, _ = ask(recipe(), Asked(axes=axes, one_factor=True))
    assert [as_in_grid(settings, name) for name in ("r=4", "top_k=2", "adapter.r=4")] == ["full"] * 3
    cells = {"both": {"adapter.r": 8, "adapter.top_k": 1}, "alone": {"adapter.r": 16}, "kl_off": {"loss.kl.weight": 0}}
    assert as_in_grid(recipe(cells=cells), "r=8") == "r=8"
    assert as_in_grid(recipe(cells=cells), "r=16") == "alone"
    assert as_in_grid(recipe(cells=cells), "kl_weight=0") == "kl_off"


def test_axes_all_of_whose_cells_are_the_recipe_itself_are_known_as_they_are_asked_for():
    axes = parse_axes(["adapter.r=4"])
    settings, _ = ask(recipe(), Asked(axes=axes, reference="r=4"))
    assert settings.ablation.reference == "full"
    assert as_in_grid(settings, "r=4", axes) == "full"
