"""Finished cells are read from their files alone: the right ones, and hundreds of them in a moment."""

import json
import os
import time

import numpy as np
import pytest

from tests.ablation.finished_cells import finish_cell, some_answers
from topiclora_cli.ablation.finished import read_cell
from topiclora_cli.ablation.folders import open_cell
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.identity import IDENTITY
from topiclora_cli.ablation.reports import Reports
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import altered, build_recipe
from topiclora_cli.runs.files import write_text

ANSWERS = {"a": [1, 0, 1], "b": [0, 0, 1]}


def recipe(**ablation):
    values = {"name": "x", "model": {"name": "m"}, "eval": {"tasks": ["t"]}, "ablation": ablation}
    return build_recipe(values, where="here")


def test_a_finished_cell_says_what_it_scored_what_it_took_and_where(tmp_path):
    (cell,) = make_grid(recipe())
    assert read_cell(tmp_path, cell) is None
    finish_cell(tmp_path, cell, ANSWERS, seconds=80.0, parameters=1000, peak=2.5)
    found = read_cell(tmp_path, cell)
    assert found.mean.tuned == pytest.approx(0.5)
    assert (found.cost.parameters, found.cost.activated) == (1000, 500)
    assert (found.cost.train_seconds, found.cost.eval_seconds, found.cost.resident_gib) == (80, 20, 2.5)
    assert (found.folder, found.evaluation) == ("full-s0", "full-s0/eval/t")
    assert found.losses == {"loss": 1.0, "loss_kl": 0.25}
    assert len(found.settings) == 64


def test_the_base_costs_no_training(tmp_path):
    cell = make_grid(recipe(base=True))[0]
    finish_cell(tmp_path, cell, ANSWERS, seconds=80.0)
    found = read_cell(tmp_path, cell)
    assert (found.cost.parameters, found.cost.train_seconds, found.cost.eval_seconds) == (0, 0, 20)
    assert found.cost.resident_gib is None


def test_seconds_of_another_evaluation_are_not_those_of_the_cells_own(tmp_path):
    (cell,) = make_grid(recipe())
    run = finish_cell(tmp_path, cell, ANSWERS)
    stages = json.loads((run.path / "run.json").read_text())
    stages["stages"]["eval"]["name"] = "somebody's"
    write_text(run.path / "run.json", json.dumps(stages))
    assert read_cell(tmp_path, cell).cost.eval_seconds is None


def test_a_recipe_changed_by_hand_is_noticed_though_its_digest_was_kept(tmp_path):
    (cell,) = make_grid(recipe())
    run = finish_cell(tmp_path, cell, ANSWERS)
    path = run.path / "recipe.yaml"
    path.write_text(path.read_text().replace("learning_rate: ", "learning_rate: 0.5 #"))
    with pytest.raises(TopicLoraError, match="holds a cell with other settings"):
        open_cell(tmp_path, cell)


def test_cells_of_versions_that_kept_no_digest_are_read_as_well(tmp_path):
    (cell,) = make_grid(recipe())
    run = finish_cell(tmp_path, cell, ANSWERS)
    (run.path / IDENTITY).unlink()
    assert read_cell(tmp_path, cell) is not None
    (other,) = make_grid(altered(recipe(), [("train.max_steps", 3)], where="here"))
    with pytest.raises(TopicLoraError, match="holds a cell with other settings"):
        read_cell(tmp_path, other)


def test_another_grid_around_a_cell_leaves_it_known(tmp_path, monkeypatch):
    (cell,) = make_grid(recipe())
    finish_cell(tmp_path, cell, ANSWERS)
    monkeypatch.setattr("topiclora_cli.ablation.folders.load_recipe", None)  # which is not called
    larger = make_grid(recipe(seeds=[0, 1], cells={"y": {"loss.kl.weight": 0.0}}))[0]
    assert read_cell(tmp_path, larger) is not None


def test_scores_of_an_adapter_that_was_trained_anew_since_are_none_of_the_cells(tmp_path):
    (cell,) = make_grid(recipe())
    run = finish_cell(tmp_path, cell, ANSWERS)
    weights = run.path / "adapter" / "adapter_model.safetensors"
    later = time.time_ns() + 10**9
    os.utime(weights, ns=(later, later))  # the same bytes, copied later: read, and found the same
    assert read_cell(tmp_path, cell) is not None
    weights.write_text("others")
    os.utime(weights, ns=(later, later))
    assert read_cell(tmp_path, cell) is None


def test_two_hundred_finished_cells_are_reported_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("topiclora_cli.runs.run.versions", dict)
    monkeypatch.setattr("topiclora_cli.runs.run._git_state", lambda: None)
    # JSON is YAML, and written in a thousandth of the time.
    monkeypatch.setattr("topiclora_cli.ablation.identity.dump_recipe", lambda recipe: recipe.model_dump_json())
    cells = {f"kl.weight={n / 1000}": {"loss.kl.weight": n / 1000} for n in range(1, 66)}
    asked = recipe(cells=cells, seeds=[0, 1, 2], base=True)
    grid, random = make_grid(asked), np.random.default_rng(0)
    assert len(grid) == 199
    for cell in grid:
        answers = some_answers(random, 8, 40, 0.5)
        finish_cell(tmp_path, cell, answers, losses={task: random.random(40) for task in answers})
    begin = time.process_time()
    scores = Reports(Work(make_grid(asked), tmp_path), asked).write()
    took = time.process_time() - begin
    assert len(scores) == 67
    assert {score.seeds for score in scores[1:]} == {3}
    assert took < 5, "of one processor"
    for name in ("report.md", "report.html", "results.json", "scores.csv", "cells.csv", "tables.tex"):
        assert (tmp_path / name).stat().st_size > 1000
