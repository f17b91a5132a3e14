"""A grid under way is told at any time, without a lock held or torch loaded."""

import errno
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.ablation.finished_cells import finish_cell
from topiclora_cli.ablation.cell import make_cell
from topiclora_cli.ablation.failures import FAILURE, record_failure
from topiclora_cli.ablation.folders import taken
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.states import CellState, cell_states, failed_lines
from topiclora_cli.ablation.status import grid_status
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe, dump_recipe
from topiclora_cli.reporting.grids.status import as_json, status_tables, summary
from topiclora_cli.runs.naming import PROBES
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.routing import ProbeStudy
from topiclora_cli.runs.run import RunDir

ANSWERS = {"a": [1, 0, 1, 1], "b": [0, 0, 1, 1]}


@pytest.fixture
def grid(tmp_path):
    """A run whose cells are: done at both seeds, failed, running, waiting."""
    cells = {name: {"loss.kl.weight": 0.0} for name in ("broken", "slow", "later")}
    values = {"name": "x", "model": {"name": "m"}, "eval": {"tasks": ["t"]}}
    recipe = build_recipe({**values, "ablation": {"cells": cells, "seeds": [0, 1]}}, where="here")
    run = RunDir.create(tmp_path / "grid", recipe_yaml=dump_recipe(recipe), name="x", seed=0)
    return run, {cell.folder: cell for cell in make_grid(recipe)}


def test_every_run_has_a_state_and_what_is_scored_stands_below(grid):
    run, cells = grid
    folder = run.path / "ablation"
    for name in ("full-s0", "full-s1", "slow-s1"):
        finish_cell(folder, cells[name], ANSWERS, seconds=80.0)
    record_failure(make_cell(folder, cells["broken-s0"]), cells["broken-s0"], "It broke.", "Mend it.")
    with taken(folder, cells["slow-s0"]):
        found = grid_status(run)
    states = {line.folder: (line.state, line.reason) for line in found.lines}
    assert states["full-s1"] == states["slow-s1"] == ("done", "")
    assert states["broken-s0"] == ("failed", "It broke. Mend it.")
    assert states["slow-s0"][0] == "running"
    assert states["later-s1"] == ("waiting", "")
    # Each that is done took 100 s; of the four that are left one runs at a time.
    assert found.left == pytest.approx(400)
    assert summary(found) == (
        "8 runs: 3 done, 1 running, 3 waiting, 1 failed. About 7 min to go, at as many at once as now."
    )
    runs, scores = status_tables(found)
    assert len(runs.rows) == 8
    assert [cells[0].text for cells in scores.rows] == ["full", "slow"]
    assert json.loads(as_json(found))["lines"][0]["state"] == "done"


def test_what_fails_after_the_scores_is_a_failure_and_scores_that_come_later_mend_it(grid):
    run, cells = grid
    folder, cell = run.path / "ablation", cells["slow-s0"]
    made = finish_cell(folder, cell, ANSWERS)
    failure = record_failure(made, cell, "A probe broke.", "Mend it.")
    assert {line.folder: line.state for line in grid_status(run).lines}["slow-s0"] == "failed"
    write_result(made.path / FAILURE, replace(failure, when="2025-12-31T00:00:00+00:00"))
    assert {line.folder: line.state for line in grid_status(run).lines}["slow-s0"] == "done"


def test_a_cell_that_has_still_to_be_probed_is_not_done(tmp_path):
    probed = {"tasks": ["t"], "probes": ["typos"]}
    (cell,) = make_grid(build_recipe({"name": "x", "model": {"name": "m"}, "eval": probed}, where="here"))
    made = finish_cell(tmp_path, cell, ANSWERS)
    assert [state.state for state in cell_states([cell], tmp_path)] == ["waiting"]
    assert Work([cell], tmp_path).left() == [cell]
    write_result(made.path / "eval" / "t" / PROBES, ProbeStudy([], 10, 0))
    assert [state.state for state in cell_states([cell], tmp_path)] == ["done"]
    assert Work([cell], tmp_path).left() == []


def test_before_anything_is_done_there_is_nothing_to_foretell(grid):
    run, _ = grid
    found = grid_status(run)
    assert (found.left, found.found.cells) == (None, ())
    assert {line.state for line in found.lines} == {"waiting"}
    assert status_tables(found) == []
    with run.running("ablation"):
        found = grid_status(run)
    assert (found.begin, len(status_tables(found))) == (None, 1)
    with pytest.raises(TopicLoraError), run.running("ablation"):
        raise TopicLoraError("No cluster answers.")
    assert status_tables(grid_status(run)) == []


def test_a_cell_that_cannot_be_read_is_told_and_hides_no_other(grid):
    run, cells = grid
    for name in ("full-s0", "slow-s0"):
        made = finish_cell(run.path / "ablation", cells[name], ANSWERS)
    (made.path / "eval" / "t" / "summary.json").write_text("{")
    found = grid_status(run)
    line = next(line for line in found.lines if line.folder == "slow-s0")
    assert line.state == "failed"
    assert "summary.json is not valid JSON" in line.reason
    assert [score.name for score in found.found.cells] == ["full"]


def test_a_cell_all_of_whose_values_diverged_has_failed_and_one_that_has_another_has_not():
    def tried(name, rate, state, seed=0):
        return CellState(name, seed, f"{name}-s{seed}-{rate}", {"train.learning_rate": rate}, state, "Not finite.")

    states = [tried("a", 1.0, "diverged"), tried("a", 2.0, "diverged")]
    others = [tried("b", 1.0, "diverged"), tried("b", 2.0, "done")]
    assert list(failed_lines([*states, *others])) == [
        "a: training diverged with every value of ablation.tune. Try lower values of it."
    ]
    (line,) = failed_lines([*states, CellState("a", 1, "a-s1", {}, "waiting", "not run, because of that")])
    assert line == "a-s1: not run, because of that"


def test_looking_writes_nothing(grid):
    run, cells = grid
    finish_cell(run.path / "ablation", cells["full-s0"], ANSWERS)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    status_tables(grid_status(run))
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


@pytest.mark.skipif(sys.platform == "win32", reason="locks are mandatory there")
def test_a_run_that_may_only_be_read_is_told_all_the_same(grid, monkeypatch):
    run, cells = grid
    folder = run.path / "ablation"
    for name in ("slow-s0", "later-s0"):
        with taken(folder, cells[name]):
            pass

    def refuse(lock, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", lock.lock_file)

    with taken(folder, cells["slow-s0"]):
        monkeypatch.setattr("topiclora_cli.ablation.folders.FileLock.acquire", refuse)
        states = {line.folder: line.state for line in grid_status(run).lines}
        monkeypatch.undo()
    assert (states["slow-s0"], states["later-s0"]) == ("running", "waiting")


def test_a_run_that_is_no_grid_is_told(tmp_path):
    recipe = dump_recipe(build_recipe({"name": "x", "model": {"name": "m"}}, where="here"))
    run = RunDir.create(tmp_path / "plain", recipe_yaml=recipe, name="x", seed=0)
    with pytest.raises(TopicLoraError, match="is no grid: its recipe has no cells"):
        grid_status(run)
    (run.path / "ablation").mkdir()  # of the recipe alone, over seeds
    assert len(grid_status(run).lines) == 1


def test_a_number_of_experts_that_is_still_to_be_chosen_is_told(tmp_path):
    values = {"name": "x", "model": {"name": "m"}, "adapter": {"num_experts": "auto"}}
    values["ablation"] = {"cells": {"a": {"loss.kl.weight": 0.0}}}
    recipe = dump_recipe(build_recipe(values, where="here"))
    run = RunDir.create(tmp_path / "grid", recipe_yaml=recipe, name="x", seed=0)
    with pytest.raises(TopicLoraError, match="its number of experts is still to be chosen"):
        grid_status(run)


def test_neither_torch_nor_a_model_library_is_loaded():
    code = (
        "import sys, topiclora_cli.ablation.status, topiclora_cli.cli.ablate_status, topiclora_cli.reporting.drawn;"
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets', 'lm_eval') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_grid_that_nobody_has_begun_is_one_line_with_the_command_that_begins_it(grid, run_cli):
    run, _ = grid
    code, text = run_cli("ablate", "status", "--run", run.path)
    line = f"No run of this grid has begun, of 8. Begin with: topiclora ablate --run {run.path}\n"
    assert (code, text) == (0, line)
    code, text = run_cli("ablate", "status", "--run", run.path, "--json")
    found = json.loads(text)
    assert (code, len(found["lines"]), found["begin"]) == (0, 8, f"topiclora ablate --run {run.path}")


def test_the_command_prints_the_states_or_json(grid, run_cli):
    run, cells = grid
    finish_cell(run.path / "ablation", cells["full-s0"], ANSWERS)
    code, text = run_cli("ablate", "status", "--run", run.path)
    assert code == 0, text
    assert "later-s1" in text
    assert "8 runs: 1 done, 7 waiting." in " ".join(text.split())
    code, text = run_cli("ablate", "status", "--run", run.path, "--json")
    assert code == 0, text
    assert len(json.loads(text)["lines"]) == 8
