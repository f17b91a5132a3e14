"""A finished cell is taken up again where its own settings are the same, whatever the grid around it."""

import pytest

from topiclora_cli.ablation.cell import make_cell
from topiclora_cli.ablation.folders import open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import altered, build_recipe, dump_recipe
from topiclora_cli.runs.run import RunDir


def test_other_seeds_or_cells_leave_a_cell_as_it_is(tmp_path):
    recipe = build_recipe({"name": "x", "model": {"name": "m"}, "loss": {"kl": {"weight": 0.1}}}, where="here")
    assert open_cell(tmp_path, Cell("c", 0, recipe)) is None
    RunDir.create(tmp_path / "c-s0", recipe_yaml=dump_recipe(recipe), name="c", seed=0)
    larger = altered(recipe, [("ablation.seeds", ["0", "1"]), ("ablation.cells", {"a": {"seed": 3}})], where="here")
    assert open_cell(tmp_path, Cell("c", 0, larger)).path == tmp_path / "c-s0"
    with pytest.raises(TopicLoraError, match="holds a cell with other settings"):
        open_cell(tmp_path, Cell("c", 0, altered(recipe, [("loss.kl.weight", 0.2)], where="here")))


def test_a_cell_that_another_process_is_making_is_not_there_yet(tmp_path):
    recipe = build_recipe({"name": "x", "model": {"name": "m"}}, where="here")
    (tmp_path / "c-s0").mkdir()
    (tmp_path / "c-s0" / "recipe.yaml").write_text(dump_recipe(recipe))
    assert open_cell(tmp_path, Cell("c", 0, recipe)) is None


def test_a_cell_that_another_process_is_about_to_make_is_not_there_yet(tmp_path):
    recipe = build_recipe({"name": "x", "model": {"name": "m"}}, where="here")
    cell = Cell("c", 0, recipe)
    (tmp_path / "c-s0").mkdir()
    (tmp_path / "c-s0" / "recipe.yaml").write_text("name: x\n")
    assert open_cell(tmp_path, cell) is None
    # Nor where it was killed there.
    assert make_cell(tmp_path, cell).path == tmp_path / "c-s0"
    assert open_cell(tmp_path, cell) is not None
