"""A worker that loses its parent leaves without a word on it in the cell's log."""

from multiprocessing.connection import Pipe

import pytest

from topiclora_cli.ablation import worker
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import Ended
from topiclora_cli.recipe import build_recipe


@pytest.mark.parametrize("how", ["interrupted", "done"])
def test_a_parent_that_is_gone_when_a_cell_ends_is_no_error(tmp_path, monkeypatch, how):
    recipe = build_recipe({"name": "x", "model": {"name": "m"}}, where="here")
    cell = Cell("full", 0, recipe)
    parent, own = Pipe()

    def lose_the_parent(cell, grid, folder):
        parent.close()
        return Ended(cell, how)

    monkeypatch.setattr(worker, "_attempt", lose_the_parent)
    monkeypatch.setattr(worker, "_write_to", lambda path: None)
    monkeypatch.setattr(worker, "_listen", lambda connection, orders: [orders.put(each) for each in (cell, None)])
    parent.send(([cell], tmp_path))
    worker.serve(own)
