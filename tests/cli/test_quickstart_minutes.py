"""`topiclora quickstart --minutes`: sizes that fit, on a tiny random model."""

import pytest

from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages import pace


@pytest.fixture
def timed(monkeypatch):
    """Steps of six seconds, which nobody has to wait for."""
    monkeypatch.setattr(pace, "measure_pace", lambda recipe, progress: pace.Pace(load=0.1, prompt=0.01, step=6.0))


def test_too_few_minutes_are_one_line_and_leave_no_run(tiny_recipe, run_cli, tmp_path, timed):
    code, text = run_cli("quickstart", "--recipe", tiny_recipe, "--out", "run", "--minutes", "0.1")
    assert code == 2
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "too few to train anything on this machine, where a step takes 6.0 s. Give it more, --minutes" in line
    assert not (tmp_path / "run").exists()


def test_sizes_that_fit_are_printed_and_kept_with_the_run(tiny_recipe, run_cli, tmp_path, timed, monkeypatch):
    monkeypatch.setattr(pace, "choose_sizes", lambda *_, **__: pace.Fit(2, 3, {"training": 12.0}))
    code, text = run_cli("quickstart", "--recipe", tiny_recipe, "--out", "run", "--minutes", "10")
    assert code == 0, text
    assert "A step takes 6.0 s here, so: 2 steps, 3 questions a task (training 12 s)." in text
    again = next(line for line in text.splitlines() if line.startswith("The same again: "))
    chosen = [word for word in again.split() if "=" in word]
    kept = load_recipe(str(tmp_path / "run" / "recipe.yaml"))
    assert kept == load_recipe(str(tiny_recipe), chosen).model_copy()
    assert kept.eval.limit == 3
    assert RunDir(tmp_path / "run").stage("train").result.steps == 2


@pytest.mark.parametrize("limit", ["eval.limit=2", "eval={limit: 2, tasks: [topiclora_syllogisms]}"])
def test_sizes_that_were_given_stay(tiny_recipe, run_cli, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(pace, "measure_pace", lambda *_: pytest.fail("nothing was left to choose"))
    sizes = ["--set", limit, "--set", "train.max_steps=2"]
    code, text = run_cli("quickstart", "--recipe", tiny_recipe, "--out", "run", "--minutes", "10", *sizes)
    assert code == 0, text
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).train.max_steps == 2


def test_endless_minutes_are_refused(tiny_recipe, run_cli):
    code, text = run_cli("quickstart", "--recipe", tiny_recipe, "--out", "run", "--minutes", "inf")
    assert (code, "--minutes inf is no time to fit into" in text) == (2, True), text


def test_minutes_are_for_new_runs(tmp_path, run_cli):
    code, text = run_cli("quickstart", "--run", tmp_path, "--minutes", "5")
    assert (code, "--minutes chooses the sizes of a new run" in text) == (2, True), text
