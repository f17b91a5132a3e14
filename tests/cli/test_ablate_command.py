"""`topiclora ablate`: what is asked stands in the run's recipe, and what cannot be is said in a line."""

import errno
from pathlib import Path

import pytest

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.recipe import dump_recipe, load_recipe
from topiclora_cli.runs.results.record import StageRecord
from topiclora_cli.runs.run import RunDir

told = []  # the options of the last launch


@pytest.fixture
def stopped(monkeypatch):
    """Grids are prepared and not run; the cells that would be."""
    seen: list[str] = []

    def launch(grid, recipe, run, progress, options):
        seen[:] = [cell.folder for cell in grid]
        told[:] = [options]
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
    assert settings.ablation.overrides == {"eval.limit": 2}


def test_how_it_is_run_is_told_to_the_launcher_and_to_whoever_resumes(tiny_recipe, run_cli, stopped, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 6)
    arguments = ["--jobs", "2", "--gpus", "0-2,5", "--stop", "--retry-failed"]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *arguments)
    assert code == 130, text
    assert text.endswith("topiclora ablate --run grid --jobs 2 --gpus 0-2,5 --fail-fast --retry-failed\n")
    assert told == [LaunchOptions(jobs=2, gpus=(0, 1, 2, 5), keep_going=False, retry_failed=True)]
    ray = ["--launcher", "ray", "--address", "auto", "--jobs", "auto", "--cell-cpus", "4", "--cell-gpus", "0.5"]
    code, text = run_cli("ablate", "--run", "grid", *ray)
    assert told == [LaunchOptions(jobs="auto", launcher="ray", address="auto", cpus=4, gpu_share=0.5)]
    for option, value in zip(ray[::2], ray[1::2], strict=True):
        assert f"{option} {value}" in text


def test_a_cell_that_is_the_recipe_itself_is_run_by_either_name(tiny_recipe, run_cli, stopped):
    asked = ["--recipe", tiny_recipe, "--grid", "adapter.r=2,8", "--cells", "r=2,full"]
    code, text = run_cli("ablate", *asked, "--dry-run")
    assert (code, "one cell over one seed: one run" in text) == (0, True), text
    code, text = run_cli("ablate", *asked, "--out", "grid")
    assert (code, stopped) == (130, ["full-s0"])
    assert text.endswith("topiclora ablate --run grid --cells r=2,full\n")
    assert (run_cli("ablate", "--run", "grid", "--cells", "r=2")[0], stopped) == (130, ["full-s0"])
    code, text = run_cli("ablate", "--run", "grid", "--cells", "r=3")
    assert (code, "no ablation cell 'r=3'. Did you mean 'r=8'" in text) == (2, True), text


def test_a_full_disk_is_one_line_with_the_command_that_goes_on(tiny_recipe, run_cli, stopped, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("topiclora_cli.ablation.launch.launch", full)
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", "--jobs", "2")
    line = "error: No space is left on the device. Free some, and go on with: topiclora ablate --run grid --jobs 2"
    assert (code, text.splitlines()[-1]) == (2, line)
    assert run_cli("ablate", "--run", "grid")[0] == 2


def test_a_slurm_script_is_all_that_is_printed_and_nothing_is_run(tiny_recipe, run_cli, stopped):
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", "--grid", "adapter.r=2,8", "--print-slurm")
    assert (code, stopped) == (0, [])
    assert text.startswith("#!/bin/bash\n")
    assert "--array=0-1" in text
    assert list(load_recipe("grid/recipe.yaml").ablation.cells) == ["r=8"]


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(tiny_recipe, run_cli, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    grid = ["--grid", "adapter.r=2,8", "--tune", "train.learning_rate=0.1,0.01", "--seeds", "0,1"]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *grid, "--dry-run")
    assert code == 0, text
    assert sorted(tmp_path.rglob("*")) == before
    rows = {line.split()[0]: line.split() for line in text.splitlines() if "to run" in line and "," in line}
    full, large = rows["full"], rows["r=8"]
    assert full[1:4] == ["the", "recipe", "itself"]
    assert large[1] == "adapter.r=8"
    assert large[4] == "6"
    total = int(large[2].replace(",", "")) / int(full[4].replace(",", ""))
    assert f"Warning: trainable parameters differ by more than 1 % from those of full: r=8 ({total:.2f} x)." in text
    assert "Warning: activated parameters differ" in text
    assert "2 cells over 2 seeds" in text
    assert "choosing values adds 2 trainings at seed 0." in text
    assert "data.validation=8:" in text


def test_a_dry_run_counts_the_trials_of_a_search(tiny_recipe, run_cli):
    search = ["--search", "optuna", "--trials", "3", "--tune", "train.learning_rate=1e-3..1e-1:log", "--seeds", "0,1"]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, *search, "--dry-run")
    assert code == 0, text
    assert "3 cells over 2 seeds: 10 runs, 10 to run." in text
    assert "choosing values adds 4 trainings at seed 0." in text


def test_a_dry_run_of_a_run_knows_what_is_finished(tiny_recipe, run_cli, tmp_path, stopped):
    assert run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid")[0] == 130
    for cell in make_grid(load_recipe("grid/recipe.yaml")):
        path = f"grid/ablation/{cell.folder}"
        made = RunDir.create(path, recipe_yaml=dump_recipe(cell.recipe), name=cell.name, seed=0)
        made.record("train", StageRecord("done" if cell.name == "full" else "failed", seconds=40.0))
    RunDir("grid/ablation/full-s0").record("eval", StageRecord("done", seconds=20.0))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, text = run_cli("ablate", "--run", "grid", "--grid", "loss.kl.weight=0.2,0.3", "--dry-run", "--jobs", "2")
    assert code == 0, text
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files
    assert "4 cells over one seed: 4 runs, 1 done, 3 to run." in text
    assert "What is left takes about 90 s, going by one finished run." in text
    assert "Warning" not in text
    code, text = run_cli("ablate", "--run", "grid", "--set", "train.max_steps=3", "--dry-run")
    assert (code, "--set wants train.max_steps: 3, and the run's cells have " in text) == (2, True)
    assert run_cli("ablate", "--run", "grid", "--grid", "adapter.r=4", "--set", "train.max_steps=3") == (code, text)
    assert {path: path.stat().st_mtime_ns for path in files} == files


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
        (["--seeds", "4294967296"], "seeds.0: a seed is below 4294967296 (given: 4294967296)"),
        (["--seeds", "1,1"], "--seeds 1,1 has one twice"),
        (["--seeds", ","], "--seeds has none"),
        (["--cells", ","], "--cells names no cell"),
        (["--suite", ","], "--suite names no suite"),
        (["status"], "Options before status are those of a grid that runs. Put them after it"),
        (["--jobs", "0"], "--jobs 0: a whole number from 1, or auto"),
        (["--jobs", "many"], "--jobs many: a whole number from 1, or auto"),
        (["--gpus", "3-1"], "--gpus 3-1: '3-1' is no GPU and no range"),
        (["--gpus", "0,0-1"], "--gpus 0,0-1: each GPU once"),
        (["--gpus", "0,999"], "--gpus: there is no GPU "),
        (["--launcher", "rey"], "There is no launcher 'rey'. Did you mean 'ray'"),
        (["--address", "auto"], "--address is that of a Ray cluster. Add --launcher ray"),
        (["--launcher", "ray", "--gpus", "0"], "--gpus are this machine's, and Ray numbers its own. Use --cell-gpus"),
        (["--cell-cpus", "0"], "--cell-cpus 0: a number above 0"),
        (["--cell-cpus", "inf", "--print-slurm"], "--cell-cpus inf: a number above 0"),
        (["--cell-gpus", "nan"], "--cell-gpus nan: a number from 0"),
        (["--search", "optunna"], "There is no search 'optunna'. Did you mean 'optuna'"),
        (["--trials", "3"], "--trials are those of a search. Add --search optuna"),
        (["--search", "optuna"], "search: optuna has nothing to choose from"),
        (["--suite", "component"], "There is no suite 'component'. Did you mean 'components'"),
        (["--dry-run", "--grid", "adapter.target_modules=[nope]"], "nope"),
        (
            ["--tune", "train.learning_rate=0.0012345678,0.0012345679"],
            "--tune: two values of train.learning_rate would",
        ),
        (["--set", "ablation.tune={train.warmup: [0.0312345678, 0.0312345679]}"], "ablation.tune: two values of train"),
        (["--tune", "train.learing_rate=1,2"], "Did you mean 'learning_rate'"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_made(arguments, message, tiny_recipe, run_cli):
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *arguments)
    assert code == 2, text
    assert message in text
    assert [line for line in text.splitlines() if line.startswith("error: ")] == text.splitlines()[-1:]
    assert not Path("grid").exists()
