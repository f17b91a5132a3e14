"""Every cell of every suite is a recipe that trains."""

import pytest

from topiclora_cli.ablation.cell import train_cell
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.suites import SUITES
from topiclora_cli.recipe import altered
from topiclora_cli.runs.progress import LoggedProgress

SIZES = {"adapter__r": 4, "adapter__target_modules": "all-linear", "adapter__router_scope": "layer"}
SMALL = {
    **{"train.batch_size": 2, "train.save_steps": 1, "graph.steps": 2, "graph.tagged_prompts": 64},
    **{"train.max_steps": 1, "data.per_family": 4},
}


# Minutes of training steps in all; by day one suite stands for the others.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "components" else pytest.mark.nightly) for name in SUITES]
)
def test_every_cell_of_a_suite_trains_a_step(made, tmp_path, name):
    recipe, _ = made(name, **SIZES)
    grid = make_grid(altered(recipe, SMALL.items(), where="test"))
    assert len(grid) > 2
    for cell in grid:
        run = train_cell(tmp_path, cell, grid, LoggedProgress())
        assert run.is_done("train"), cell.name


@pytest.mark.nightly
@pytest.mark.parametrize("name", SUITES)
def test_a_quick_suite_runs_end_to_end_by_one_command(run_cli, tiny_recipe, tmp_path, name):
    sizes = [f"--set={key}={value}" for key, value in {**SMALL, "adapter.target_modules": "all-linear"}.items()]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--suite", name, "--quick", "--out", "study", *sizes)
    assert code == 0, text
    assert (tmp_path / "study" / "ablation" / "report.md").is_file()
