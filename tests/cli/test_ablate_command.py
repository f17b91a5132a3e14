"""`topiclora ablate`: what is asked stands in the run's recipe, and what cannot be is said in a line."""

from pathlib import Path

import pytest

from topiclora_cli.recipe import load_recipe


@pytest.fixture
def stopped(monkeypatch):
    """Grids are prepared and not run; the cells that would be."""
    seen = []

    def launch(grid, *_args, **_options):
        seen[:] = [cell.folder for cell in grid]
        raise KeyboardInterrupt

    monkeypatch.setattr("topiclora_cli.ablation.launch.launch", launch)
    monkeypatch.setattr("topiclora_cli.ablation.runner.try_tasks", lambda recipe: None)
    return seen


def test_a_run_keeps_what_was_asked_and_is_added_to(tiny_recipe, run_cli, stopped):
    arguments = ["--grid", "adapter.r=2,8", "--grid", "loss.kl.weight=0", "--one-factor", "--reference", "r=8"]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *arguments)
    assert code == 130, text
    assert "adapter.r=2 is the recipe itself, which is called full." in text
    assert text.endswith("topiclora ablate --run grid\n")
    assert stopped == ["full-s0", "r=8-s0", "kl_weight=0-s0"]
    code, text = run_cli("ablate", "--run", "grid")
    assert (code, stopped) == (130, ["full-s0", "r=8-s0", "kl_weight=0-s0"])
    kept = Path("grid/recipe.yaml").read_text()
    assert run_cli("ablate", "--run", "grid", "--grid", "adapter.r=8,many")[0] == 2
    assert Path("grid/recipe.yaml").read_text() == kept
    code, text = run_cli("ablate", "--run", "grid", "--grid", "adapter.r=4", "--seeds", "1", "--set", "eval.limit=2")
    assert (code, stopped) == (130, ["full-s1", "r=8-s1", "kl_weight=0-s1", "r=4-s1"])
    assert text.endswith("topiclora ablate --run grid --set eval.limit=2 --seeds 1\n")
    settings = load_recipe("grid/recipe.yaml")
    assert list(settings.ablation.cells) == ["r=8", "kl_weight=0", "r=4"]
    assert (settings.ablation.seeds, settings.ablation.reference, settings.eval.limit) == ([0, 1], "r=8", 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "adapter.num_expert=2,4"], "unknown key 'adapter.num_expert'. Did you mean 'num_experts'"),
        (["--grid", "adapter.r=4,many"], "adapter.r: Input should be a valid integer"),
        (["--grid", "adapter.r=4", "--grid", "adapter.r=8"], "adapter.r has two axes"),
        (["--grid", "adapter.r=8,8"], "adapter.r has the value 8 twice"),
        (["--grid", "adapter.r=8", "--reference", "r=9"], "there is no such cell. Did you mean 'r=8'"),
        (["--grid", "adapter.r=8", "--tune", "adapter.r=2,4"], "is an axis of --grid and a key to --tune"),
        (["--one-factor"], "--one-factor has no --grid"),
        (["--seeds", "0,one"], "--seeds: 'one' is no whole number from 0"),
        (["--seeds", "1,1"], "--seeds 1,1 has one twice"),
        (["--seeds", ","], "--seeds has none"),
        (["--tune", "train.learing_rate=1,2"], "Did you mean 'learning_rate'"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_made(arguments, message, tiny_recipe, run_cli):
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *arguments)
    assert code == 2, text
    assert message in text
    assert [line for line in text.splitlines() if line.startswith("error: ")] == text.splitlines()[-1:]
    assert not Path("grid").exists()
