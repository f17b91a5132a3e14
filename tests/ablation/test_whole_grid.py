"""The report of a grid is that of the whole of it, whichever cells and seeds a call works on."""

import json

import numpy as np
import pytest

from tests.ablation.finished_cells import finish_cell, some_answers
from topiclora_cli.ablation import outcomes
from topiclora_cli.ablation.asking import Asked
from topiclora_cli.ablation.existing import ask_run, keep
from topiclora_cli.ablation.finished import read_cell
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.reports import Reports
from topiclora_cli.ablation.status import grid_status
from topiclora_cli.ablation.whole import whole_grid
from topiclora_cli.ablation.work import Work
from topiclora_cli.recipe import build_recipe, dump_recipe, load_recipe
from topiclora_cli.runs.run import RECIPE, RunDir

NINE = {f"c{number}": {"loss.kl.weight": number / 100} for number in range(1, 10)}


def run_of(path, **ablation):
    values = {"name": "x", "model": {"name": "m"}, "eval": {"tasks": ["t"]}, "ablation": ablation}
    recipe = dump_recipe(build_recipe(values, where="here"))
    return RunDir.create(path / "r", recipe_yaml=recipe, name="x", seed=0)


@pytest.fixture
def run(tmp_path):
    """Ten cells at three seeds, of which three cells are finished at all."""
    made, random = run_of(tmp_path, cells=NINE, seeds=[0, 1, 2]), np.random.default_rng(0)
    for cell in make_grid(load_recipe(str(made.path / RECIPE))):
        if cell.name in ("full", "c1", "c2"):
            finish_cell(made.path / "ablation", cell, some_answers(random, 2, 20, 0.5))
    return made


def called(run, only=None, seeds=(), overrides=()):
    """The reports of a call on these cells and seeds."""
    found = ask_run(run, Asked(seeds=seeds), overrides)
    keep(run, found)
    return Reports(Work(make_grid(found.now, only=only), run.path / "ablation"), found.now, run)


def reported(run):
    folder = run.path / "ablation"
    return json.loads((folder / "results.json").read_text()), (folder / "report.md").read_text()


@pytest.mark.parametrize(("only", "seeds"), [(["full", "c1"], ()), (["full", "c1"], (0,)), (["c1"], ()), (None, (2,))])
def test_cells_and_seeds_of_a_call_leave_the_report_that_of_the_grid(run, only, seeds):
    called(run).write()
    whole = reported(run)
    scores = {each["name"]: each for each in whole[0]["cells"]}
    assert {name: each["seeds"] for name, each in scores.items()} == {"full": 3, "c1": 3, "c2": 3}
    assert scores["c1"]["measures"]["acc"]["against"]["full"]["tasks"]["family"] == 9
    assert "Scored: 9 of 30 runs of 10 cells." in whole[1]
    called(run, only, seeds).write()
    assert reported(run) == whole


def test_status_tells_what_the_report_of_a_part_says(run):
    scores = called(run, ["full", "c1"], (0,)).write()
    assert list(grid_status(run).found.cells) == scores


def test_a_seed_that_is_asked_for_beside_those_of_the_run_is_in_the_report(run):
    reports = called(run, ["full"], (7,))
    (cell,) = reports.mine.asked
    finish_cell(run.path / "ablation", cell, some_answers(np.random.default_rng(1), 2, 20, 0.5))
    assert [(score.name, score.seeds) for score in reports.write()] == [("full", 4), ("c1", 3), ("c2", 3)]
    assert "Scored: 10 of 40 runs of 10 cells." in reported(run)[1]


def test_what_a_call_sets_of_the_grid_itself_is_in_the_cells_that_it_works_on_and_the_others_stand(run):
    reports = called(run, ["c3"], overrides=["ablation.cells.c3={train.max_steps: 3}"])
    finish_cell(run.path / "ablation", reports.mine.asked[0], some_answers(np.random.default_rng(1), 2, 20, 0.5))
    assert [(score.name, score.seeds) for score in reports.write()] == [("full", 3), ("c1", 3), ("c2", 3), ("c3", 1)]
    # To a call that was not told so, it is a cell of other settings.
    assert [score.name for score in called(run, ["c1"]).write()] == ["full", "c1", "c2"]
    assert "holds a cell with other settings" in reported(run)[1]


def test_what_another_call_adds_to_the_grid_is_in_the_next_report(run):
    reports = called(run, ["full", "c1"])
    reports.write()
    keep(run, ask_run(run, Asked(seeds=(5,))))
    reports.write()
    assert "Scored: 9 of 40 runs of 10 cells." in reported(run)[1]


def test_what_is_finished_is_read_once_for_all_reports(run, monkeypatch):
    read = []

    def read_counted(folder, cell):
        found = read_cell(folder, cell)
        read.append(found is not None)
        return found

    monkeypatch.setattr(outcomes, "read_cell", read_counted)
    reports = called(run, ["full", "c1"])
    reports.write()
    reports.write()
    assert sum(read) == 9


def test_a_grid_that_is_no_part_of_the_run_s_is_reported_by_itself(run):
    reports = called(run, ["full", "c1"], (0,))
    scores = Reports(reports.mine, reports.recipe).write()
    assert [(score.name, score.seeds) for score in scores] == [("full", 1), ("c1", 1)]


def test_the_cells_of_a_call_stand_among_the_others_in_the_grids_order(tmp_path):
    cells = {"a": {"loss.kl.weight": 0.0}, "refused": {"loss.kl.weight": -1}, "b": {"loss.kl.weight": 0.1}}
    run = run_of(tmp_path, cells=cells, seeds=[0, 1], base=True)
    now = ask_run(run, Asked(seeds=(1,))).now
    found = whole_grid(make_grid(now, only=["b", "base"]), run)
    seeds = [["full-s0", "a-s0", "b-s0"], ["full-s1", "a-s1", "b-s1"]]
    assert [cell.folder for cell in found] == ["base", *seeds[0], *seeds[1]]
