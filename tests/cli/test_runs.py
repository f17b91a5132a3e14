"""`topiclora runs`: what lies on disk, told, compared and taken away."""

import json

import pytest

from tests.conftest import write_tiny_recipe
from topiclora_cli.recipe import dump_recipe, load_recipe
from topiclora_cli.runs.naming import SUMMARY
from topiclora_cli.runs.results.evaluation import EvalSummary, MeanScores
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.record import StageRecord
from topiclora_cli.runs.run import RunDir

MEAN = MeanScores(
    unit="share",
    higher_is_better=True,
    base=0.375,
    base_stderr=None,
    tuned=0.5,
    tuned_stderr=None,
    delta=0.125,
    delta_stderr=None,
    of=("quiz",),
)


@pytest.fixture
def make_run(tiny_model_dir, tmp_path):
    """A run of the tiny recipe under a name, with overrides, in which nothing has been done yet."""
    source = write_tiny_recipe(tmp_path, tiny_model_dir)

    def make(name: str, *overrides: str) -> RunDir:
        recipe = load_recipe(str(source), overrides)
        path = tmp_path / "runs" / name
        return RunDir.create(path, recipe_yaml=dump_recipe(recipe), name=recipe.name, seed=recipe.seed)

    return make


def test_runs_differ_by_what_they_were_asked(make_run, run_cli):
    make_run("one"), make_run("two", "seed=3", "adapter.method=lora")
    code, text = run_cli("runs", "diff", "runs/one", "runs/two", "--json")
    rows = json.loads(text)
    assert code == 0
    assert rows["seed"] == [0, 3]
    assert rows["adapter.method"] == ["topiclora", "lora"]
    assert "model.name" not in rows
    table = run_cli("runs", "diff", "runs/one", "runs/two")[1]
    assert next(line.split() for line in table.splitlines() if "adapter.method" in line)[1:] == ["topiclora", "lora"]


def test_runs_of_one_recipe_say_the_same(make_run, run_cli):
    make_run("one"), make_run("two")
    assert run_cli("runs", "diff", "runs/one", "runs/two") == (0, "Their recipes say the same.\n")


def test_a_list_says_what_each_run_was_asked_and_scored(make_run, run_cli):
    make_run("one")
    two = make_run("two", "adapter.method=lora")
    two.record("train", StageRecord("done", seconds=90.0))
    two.record("eval", StageRecord("failed", seconds=30.0))
    write_result(two.path / "eval" / "quiz" / SUMMARY, EvalSummary("quiz", MEAN, ()))
    rows = {row["name"]: row for row in json.loads(run_cli("runs", "list", "--json")[1])}
    assert (rows["one"]["method"], rows["one"]["score"], rows["one"]["stages"]) == ("topiclora", None, {})
    assert (rows["two"]["method"], rows["two"]["data"], rows["two"]["seconds"]) == ("lora", "quickstart", 120.0)
    assert (rows["two"]["score"], rows["two"]["gain"]) == (0.5, 0.125)
    line = next(line for line in run_cli("runs", "list")[1].splitlines() if line.strip().startswith("two"))
    assert all(cell in line for cell in ("lora", "train, eval failed", "50.0", "+12.5", "2.0"))
    shown = json.loads(run_cli("runs", "show", "runs/two", "--json")[1])
    assert shown["evaluations"][0]["mean"]["tuned"] == 0.5


def test_a_later_evaluation_without_a_mean_hides_no_earlier_score(make_run, run_cli):
    run = make_run("one")
    run.record("eval", StageRecord("done"))
    for name, mean in (("quiz", MEAN), ("mixed", None)):
        write_result(run.path / "eval" / name / SUMMARY, EvalSummary(name, mean, (), failed={"x": "y"}))
    (row,) = json.loads(run_cli("runs", "list", "--json")[1])
    assert (row["score"], row["gain"], row["evaluations"]) == (0.5, 0.125, 2)
    assert "eval (2)" in run_cli("runs", "list")[1]


def test_a_run_whose_recipe_cannot_be_read_is_listed(make_run, run_cli):
    (make_run("one").path / "recipe.yaml").write_text("nonsense: [")
    code, text = run_cli("runs", "list", "--json")
    assert (code, json.loads(text)[0]["method"]) == (0, None)


def test_a_damaged_run_is_listed_as_such_beside_the_others(make_run, run_cli):
    make_run("one")
    (make_run("two").path / "run.json").write_text('{"name": ')
    code, text = run_cli("runs", "list")
    lines = text.splitlines()
    assert (code, [line.split()[0] for line in lines[1:3]]) == (0, ["one", "two"])
    assert "damaged" in lines[2]
    assert lines[3].startswith("Damaged: runs/two/run.json is not valid JSON")
    rows = json.loads(run_cli("runs", "list", "--json")[1])
    assert [row["damaged"] is None for row in rows] == [True, False]


def test_a_run_that_failed_after_its_graph_says_so_in_the_list(make_run, run_cli):
    run = make_run("one")
    run.record("graph", StageRecord("done", ""))
    run.update(got_nowhere=True)
    assert "graph, then failed" in run_cli("runs", "list")[1]


def test_a_grid_with_a_wrong_cell_leaves_no_folder(tiny_recipe, run_cli, tmp_path):
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "fresh", "--cells", "kl_of")
    assert (code, "Did you mean 'kl_off'" in text) == (2, True)
    assert not (tmp_path / "fresh").exists()


def test_a_run_is_deleted_once_it_is_confirmed(make_run, run_cli, monkeypatch):
    one, two = make_run("one"), make_run("two")
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert run_cli("runs", "rm", "runs/one")[0] == 1
    assert one.path.exists()
    code, text = run_cli("runs", "rm", "runs/one", "runs/one", "--yes")
    assert (code, text.count("runs/one"), "KiB" in text) == (0, 1, True)
    assert [path.name for path in one.path.parent.iterdir()] == [two.path.name]


def test_a_run_in_use_and_what_is_no_run_stay(make_run, run_cli, tmp_path):
    run = make_run("one")
    (tmp_path / "runs" / "notes").mkdir()
    with run.lock():
        assert "in use by another" in run_cli("runs", "rm", "runs/one", "--yes")[1]
    code, text = run_cli("runs", "rm", "runs/one", "runs/notes", "--yes")
    assert (code, "is not a run directory" in text) == (2, True)
    assert run.path.exists()


def test_recipes_says_every_command_in_full_on_one_line(run_cli):
    _, printed = run_cli("recipes")
    assert "eval.questions.source=FOLDER/validation.parquet" in printed
    assert "\\" not in printed
