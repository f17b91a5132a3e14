"""A grid that is tuned: every value at the first seed, the best at all, nothing twice, and a report after each cell."""

import json

import pytest
import yaml

from topiclora_cli.ablation.attempt import attempt
from topiclora_cli.ablation.folders import is_taken, logged_loss, open_cell, taken
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.identity import create_cell
from topiclora_cli.ablation.scores import score_cells
from topiclora_cli.ablation.states import cell_states, states_of
from topiclora_cli.ablation.tuning import choose
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.runs.results.metrics import LoggedStep, read_metrics
from topiclora_cli.runs.results.record import StageRecord
from topiclora_cli.runs.run import METRICS
from topiclora_cli.training.trainer import DualLossTrainer

RATES = [0.001, 0.01, 0.1]


def recipe(*, validation=4, **ablation):
    values = {"name": "x", "model": {"name": "m"}, "data": {"validation": validation}, "ablation": ablation}
    return build_recipe(values, where="here")


def test_every_seed_has_a_run_of_every_value_and_the_base_none():
    grid = make_grid(recipe(seeds=[3, 4], base=True, tune={"train.learning_rate": RATES[:2]}))
    assert [cell.folder for cell in grid] == [
        "base",
        *(f"full-s{seed}-learning_rate={rate}" for seed in (3, 4) for rate in RATES[:2]),
    ]
    assert [cell.recipe.train.learning_rate for cell in grid[1:]] == RATES[:2] * 2


@pytest.mark.parametrize(("best", "loss"), [(False, float("inf")), (True, 2.0)])
def test_a_held_out_loss_that_is_no_number_is_never_the_lowest(tmp_path, best, loss):
    rows = [LoggedStep({"step": step, "eval_loss": value}) for step, value in ((1, 2.0), (2, float("nan")))]
    (tmp_path / METRICS).write_text("".join(row.as_line() for row in rows))
    assert logged_loss(tmp_path, best=best) == loss


def tried(folder, cell, loss):
    """Leave what the training of a value leaves."""
    run = open_cell(folder, cell) or create_cell(folder, cell)
    (run.path / METRICS).write_text(LoggedStep({"step": 1, "eval_loss": loss}).as_line())
    run.record("train", StageRecord("done"))


def test_a_choice_is_made_without_reading_the_recipe_of_any_trial(tmp_path, monkeypatch):
    grid = make_grid(recipe(tune={"train.learning_rate": RATES}))
    for cell, loss in zip(grid, (3.0, 1.0, 2.0), strict=True):
        tried(tmp_path, cell, loss)
    monkeypatch.setattr("topiclora_cli.ablation.folders.load_recipe", None)  # which is not called
    assert Work(grid, tmp_path).choice("full").values == grid[1].tuned


def test_states_and_scores_are_told_of_losses_that_are_read_once(tmp_path, monkeypatch):
    grid = make_grid(recipe(seeds=[0, 1], cells={"a": {"loss.kl.weight": 0.0}}, tune={"train.learning_rate": RATES}))
    read = []

    def read_counted(path):
        read.append(path)
        return read_metrics(path)

    monkeypatch.setattr("topiclora_cli.ablation.folders.read_metrics", read_counted)
    for cell in grid[:6]:
        tried(tmp_path, cell, 1.0)
    work = Work(grid, tmp_path)
    assert {state.state for state in states_of(work)} == {"waiting", "tried"}
    score_cells(work, "full")
    assert len(read) == 6


def test_later_seeds_wait_for_a_value_that_cannot_be_read_and_say_so(tmp_path):
    grid = make_grid(recipe(seeds=[0, 1], tune={"train.learning_rate": RATES}))
    for cell in grid[:3]:
        tried(tmp_path, cell, 1.0)
    (tmp_path / grid[1].folder / "run.json").write_text("{")
    waiting = cell_states(grid, tmp_path)[-1]
    assert (waiting.folder, waiting.state) == ("full-s1", "waiting")
    assert f"{grid[1].folder}/run.json is not valid JSON" in waiting.reason


def test_a_look_opens_no_trial_of_which_nothing_is_new_and_notices_one_that_is(tmp_path, monkeypatch):
    grid = make_grid(recipe(seeds=[0, 1], tune={"train.learning_rate": RATES}))
    for cell in grid[:3]:
        create_cell(tmp_path, cell)
    opened = []

    def open_counted(folder, cell):
        opened.append(cell.folder)
        return open_cell(folder, cell)

    monkeypatch.setattr("topiclora_cli.ablation.outcomes.open_cell", open_counted)
    work = Work(grid, tmp_path)
    assert work.left() == grid[:3]
    assert sorted(opened) == sorted(cell.folder for cell in grid[:3])
    work.left()
    assert len(opened) == 3
    for cell, loss in zip(grid[:3], (3.0, 1.0, 2.0), strict=True):
        assert work.choice("full") is None
        tried(tmp_path, cell, loss)
    assert work.choice("full").values == grid[1].tuned
    assert len(opened) == 6
    assert [cell.folder for cell in work.left()] == [f"full-s{seed}-learning_rate=0.01" for seed in (0, 1)]


def test_what_a_cell_sets_itself_is_not_tried_in_it():
    grid = make_grid(recipe(cells={"slow": {"train.learning_rate": 1e-5}}, tune={"train.learning_rate": RATES}))
    assert [cell.folder for cell in grid if cell.name == "slow"] == ["slow-s0"]


def test_the_lowest_held_out_loss_is_chosen_and_an_end_of_the_list_is_told():
    trials = make_grid(recipe(tune={"train.learning_rate": RATES, "loss.kl.weight": [0.1, 0.5]}))
    inner = choose(trials, [3.0, 3.0, 1.0, 2.0, 4.0, float("inf")])
    assert inner.values == (("train.learning_rate", 0.01), ("loss.kl.weight", 0.1))
    assert inner.edges == ["loss.kl.weight"]
    assert choose(trials, [9.0, 9.0, 9.0, 9.0, 9.0, 1.0]).edges == ["train.learning_rate", "loss.kl.weight"]
    alone = make_grid(recipe(tune={"train.learning_rate": [0.1]}))
    assert choose(alone, [1.0]).edges == []


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        ({"tune": {"train.learing_rate": [1]}}, r"ablation\.tune of full: unknown key 'train\.learing_rate'"),
        ({"tune": {"train.learning_rate": []}}, r"ablation\.tune\.train\.learning_rate: .*at least 1 item"),
        ({"tune": {"train.learning_rate": [0.1, 0.1]}}, "has a value twice"),
        ({"tune": {"seed": [1, 2]}}, "tune: seed is the same for all"),
        ({"tune": {"data.limit": [1, 2]}}, r"tune: data\.limit is the same for all"),
        ({"tune": {"train.learning_rate": [-1.0]}}, r"ablation\.tune of full: train\.learning_rate: .*greater than 0"),
        ({"reference": "ful"}, "reference 'ful' is no cell. Did you mean 'full'"),
        ({"base": True, "cells": {"base": {}}}, "base is the untrained model"),
        ({"tune": {"train.learning_rate": RATES}, "validation": None}, "the recipe holds none out"),
    ],
)
def test_mistakes(ablation, message):
    with pytest.raises(TopicLoraError, match=message):
        make_grid(recipe(**ablation))


def test_a_cell_that_another_process_is_at_is_passed_over(tmp_path):
    grid = make_grid(recipe(cells={"a": {"loss.kl.weight": 0.0}}))
    assert [cell.name for cell in Work(grid, tmp_path).left()] == ["full", "a"]
    first, second = grid
    with taken(tmp_path, first) as mine:
        assert mine
        assert is_taken(tmp_path, first.folder)
        assert not is_taken(tmp_path, second.folder)
        assert attempt(first, grid, tmp_path, LoggedProgress()).how == "busy"
        with taken(tmp_path, second) as other:
            assert other
    assert not is_taken(tmp_path, first.folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        {"task": task, "q": f"{word} {n} ?", "choices": ["yes", "no", "day"], "answer": n % 3}
        for task, word in (("a", "If"), ("b", "The"))
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def study(tiny_recipe, rows):
    values = yaml.safe_load(tiny_recipe.read_text())
    values["data"] = {
        "source": str(rows),
        "prompt": "{{ q }}",
        "completion": "{{ choices[answer] }}",
        "validation": 4,
        "topics": ["arithmetic"],
    }
    values["train"]["max_steps"] = 1
    values["graph"]["tagged_prompts"] = 0
    values["eval"] = {"tasks": ["topiclora_questions"], "questions": {"source": str(rows), "by": "task", "limit": 4}}
    values["ablation"] = {
        "base": True,
        "seeds": [0, 1],
        "reference": "lora",
        "tune": {"train.learning_rate": [0.001, 0.3]},
        "cells": {"lora": {"adapter.method": "lora", "loss.kl.weight": 0.0}, "kl_off": {"loss.kl.weight": 0.0}},
    }
    values["ablation"]["cells"]["lora"] = {"adapter.method": "lora"}
    tiny_recipe.write_text(yaml.safe_dump(values))
    return tiny_recipe


def test_a_seed_that_diverges_with_the_chosen_values_is_named(study, run_cli, monkeypatch):
    whole = DualLossTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        return whole(self, *args, **kwargs) * (float("nan") if self.args.seed == 1 else 1.0)

    monkeypatch.setattr(DualLossTrainer, "compute_loss", compute_loss)
    only = ["--cells", "full", "--set", "ablation.tune={train.learning_rate: [0.001]}"]
    code, text = run_cli("ablate", "--recipe", study, "--out", "grid", *only)
    assert code == 1
    assert "Failed: full-s1-learning_rate=0.001: " in text
    assert "The loss or its gradient is not finite at step 1" in text


@pytest.mark.slow
def test_a_tuned_study_end_to_end(study, run_cli, tmp_path):
    code, text = run_cli("ablate", "--recipe", study, "--out", "grid")
    assert code == 0, text
    folder = tmp_path / "grid" / "ablation"
    scores = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["cells"]}
    assert set(scores) == {"base", "full", "lora", "kl_off"}
    assert scores["base"]["parameters"] == 0
    for name in ("full", "lora", "kl_off"):
        row = scores[name]
        losses = {each["values"]["train.learning_rate"]: each["eval_loss"] for each in row["tried"]}
        assert row["tuned"]["train.learning_rate"] == min(losses, key=losses.get)
        assert row["seeds"] == 2
        chosen = f"learning_rate={row['tuned']['train.learning_rate']}"
        # Only what was chosen is evaluated, and goes on to the next seed.
        for path in folder.glob(f"{name}-s*"):
            assert (path / "eval").exists() == path.name.endswith(chosen)
        assert len(list(folder.glob(f"{name}-s1*"))) == 1
    against = scores["full"]["measures"]["choice_loss"]["against"]["lora"]
    assert against["tasks"]["low"] <= against["tasks"]["mean"] <= against["tasks"]["high"]
    assert set(scores["lora"]["measures"]["acc"]["against"]) == {"full"}
    report = (folder / "report.md").read_text()
    for part in (
        "Scored: all runs of 4 cells",
        "Each cell minus lora",
        "full minus each cell",
        "Values tried",
        "Warning: ",
    ):
        assert part in report
    # Stage 1 is the same for full and kl_off at one seed, whatever their rates.
    graphs = [json.loads((path / "run.json").read_text())["stages"]["graph"] for path in folder.glob("[fk]*-s*")]
    assert len(graphs) == 6
    assert sum("copied_from" in graph for graph in graphs) == 4
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl")}
    code, text = run_cli("ablate", "--run", "grid")
    assert code == 0, text
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl")}
