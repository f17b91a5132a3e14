"""Cells share what is made once: base, tokens, priors and graphs; and each learns to the bit what it learns alone."""

import pytest
import yaml
from safetensors.torch import load_file

from topiclora_cli.ablation.cell import train_cell
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.held import holding
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.stages import inputs, training_data


@pytest.fixture
def grid(tiny_recipe):
    values = yaml.safe_load(tiny_recipe.read_text())
    values["train"]["max_steps"] = 2
    values["ablation"]["cells"] = {
        "pissa": {"adapter.method": "lora", "adapter.init_lora_weights": "pissa"},
        "kl_off": {"loss.kl.weight": 0.0},
    }
    tiny_recipe.write_text(yaml.safe_dump(values))
    return make_grid(load_recipe(str(tiny_recipe)))


def weights(folder, cell):
    return load_file(folder / cell.folder / "adapter" / "adapter_model.safetensors")


def test_cells_share_their_inputs_and_learn_what_they_learn_alone(grid, tmp_path, monkeypatch):
    for picture in ("write_page", "plot_graph", "plot_assignment", "plot_cosines"):
        monkeypatch.setattr(f"topiclora_cli.stages.build_graph.{picture}", lambda *_, **__: None)
    loads, reads, fits = [], [], []
    for module, name, calls in (
        (inputs, "_open_base", loads),
        (training_data, "encode_every", reads),
        ("topiclora_cli.training.priors", "_priors", fits),
    ):
        target = module if isinstance(module, str) else module.__name__
        whole = getattr(__import__(target, fromlist=[name]), name)

        def counted(*args, whole=whole, calls=calls, **options):
            calls.append(1)
            return whole(*args, **options)

        monkeypatch.setattr(f"{target}.{name}", counted)
    together, alone = tmp_path / "together", tmp_path / "alone"
    with holding():
        for cell in grid:
            train_cell(together, cell, grid, LoggedProgress())
    # pissa takes its start off the base's own weights, so that the next cell has it loaded anew.
    assert len(loads) <= 2
    assert len(reads) == 1
    assert len(fits) == 1
    for cell in grid:
        train_cell(alone, cell, [cell], LoggedProgress())
        mine, theirs = weights(alone, cell), weights(together, cell)
        assert mine.keys() == theirs.keys()
        assert all(mine[name].equal(theirs[name]) for name in mine), cell.name
