"""`topiclora eval` on a trained tiny run: every kind of metric, names, choices, and what cannot be scored."""

import json
import re
import shutil

import pytest

from tests.conftest import write_tiny_recipe
from topiclora_cli.cli.app import main
from topiclora_cli.evaluation import running
from topiclora_cli.reporting.markdown import write_report
from topiclora_cli.runs.run import RunDir


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    """A run that was trained without topics, made once."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    settings = ["adapter.router=linear", "loss.kl.weight=0", "adapter.granularity=prompt", "train.max_steps=2"]
    changes = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", str(recipe), "--out", str(folder / "run"), *changes])
    assert not stop.value.code
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def evaluate(run, run_cli, task_folder):
    def call(tasks, *more):
        return run_cli("eval", "--run", run, "--include-path", task_folder, "--tasks", tasks, *more)

    return call


def test_every_kind_of_metric_is_shown_with_its_unit_and_direction(evaluate, run):
    code, text = evaluate("over, pairs, cloze, prose, free", "--name", "all")
    assert code == 0, text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for task, metric in {
        "over": "acc, % ↑",
        "choice": "acc_norm, % ↑",
        "pairs": "mcc ↑",
        "cloze": "perplexity ↓",
        "prose": "word_perplexity ↓",
        "free": "exact_match (strict-match), % ↑",
    }.items():
        assert metric in lines[task], text
    stored = json.loads((run / "eval/all/summary.json").read_text())
    rows = {row["task"]: row for row in stored["tasks"]}
    few, many, choice = (rows[task]["metrics"]["acc,none"]["tuned"] for task in ("few", "many", "choice"))
    # The recipe asks at most four questions of each.
    assert rows["weighed"]["tuned"] == pytest.approx((3 * few + 4 * many) / 7)
    assert rows["over"]["tuned"] == pytest.approx((3 * few + 4 * many + 4 * choice) / 11)
    assert rows["cloze"]["delta"] == pytest.approx(rows["cloze"]["tuned"] - rows["cloze"]["base"])
    assert rows["cloze"]["base"] > 1
    assert f"{rows['cloze']['base']:,.3f} ± " in lines["cloze"]
    assert stored["mean"]["of"] == ["over", "free"]
    assert "mean of 2" in text


def test_evaluations_have_names_and_the_same_request_is_refreshed(evaluate, run, run_cli):
    for arguments in (["few"], ["few", "--limit", "2"], ["few"], ["many", "--name", "mine"]):
        code, text = evaluate(*arguments, "--no-base")
        assert code == 0, text
    assert sorted(path.parent.name for path in run.glob("eval/*/summary.json")) == ["few", "few-2", "mine"]
    shown = run_cli("runs", "show", run)[1].split("Evaluations, the latest last")[1]
    assert re.findall("^ (few-2|few|mine) ", shown, re.MULTILINE) == ["few-2", "few", "mine"]
    write_report(RunDir(run))
    report = (run / "report.md").read_text()
    assert all(f"## Evaluation `{name}`" in report for name in ("few", "few-2", "mine"))
    before = (run / "eval/mine/summary.json").read_bytes()
    code, text = evaluate("few", "--name", "mine")
    assert (code, "holds the outcome of another request" in text) == (2, True), text
    assert (run / "eval/mine/summary.json").read_bytes() == before


def test_the_headline_is_chosen_on_the_command_line(evaluate):
    code, text = evaluate("choice,pairs", "--metrics", "acc,f1", "--no-base")
    assert (code, "acc, % ↑" in text, "f1 ↑" in text) == (0, True, True), text


def test_a_failing_task_loses_no_other(evaluate, run):
    code, text = evaluate("few,breaks", "--no-base")
    assert code == 2, text
    assert "Warning: breaks could not be scored: IndexError: no such answer" in text
    assert "few " in text
    assert text.splitlines()[-1].startswith("error: Not scored: breaks.")
    assert "Traceback" not in text
    assert "Traceback" in (run / "eval/few,breaks/tuned/failed_breaks.txt").read_text()
    assert json.loads((run / "eval/few,breaks/summary.json").read_text())["failed"].keys() == {"breaks"}


def test_a_task_that_fails_the_second_time_keeps_its_scores(evaluate, run, monkeypatch):
    assert evaluate("few,many", "--no-base")[0] == 0
    stored = [run / "eval/few,many" / name for name in ("summary.json", "questions.json")]
    before, record = [path.read_bytes() for path in stored], RunDir(run).stage("eval").result

    def breaks(lm, name, *rest):
        if name == "many":
            raise IndexError("no such answer")
        return run_task(lm, name, *rest)

    run_task = running._run_task
    monkeypatch.setattr(running, "_run_task", breaks)
    code, text = evaluate("few,many", "--no-base")
    assert code == 2, text
    assert (
        "Warning: many could not be scored: IndexError: no such answer\nWhat was scored before stays as it is" in text
    )
    assert [path.read_bytes() for path in stored] == before
    assert RunDir(run).stage("eval").result == record


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("choice,missing", "pip install no_such_package"),
        ("choice,lazy", "pip install no_such_package"),
        ("choice,harmful", "--unsafe-code"),
        ("choice,unposed", "Mend its task file"),
        ("choice,topiclora_sylogisms", "Did you mean 'topiclora_syllogisms'"),
    ],
)
def test_what_cannot_be_scored_is_said_before_the_base_is(tasks, message, evaluate, run, few_tasks):
    code, text = evaluate(tasks)
    assert (code, message in text, "Evaluating" in text) == (2, True, False), text
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if line.startswith("error: ")]) == 1
    assert not (run / "eval").exists()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"fow": [0]}, "eval.samples: 'fow' is no task to evaluate. Did you mean 'few'"),
        ({"few": [3]}, "eval.samples: few has no question 3: it has 3, counted from 0."),
        ("gone.json", "eval.samples: gone.json is no file."),
    ],
)
def test_samples_of_what_is_not_there_are_one_line(samples, message, evaluate, run):
    code, text = evaluate("few", "--samples", samples if isinstance(samples, str) else json.dumps(samples))
    assert (code, len(text.splitlines()), message in text) == (2, 1, True), text
    assert not (run / "eval").exists()


def test_code_of_the_models_is_run_where_somebody_says_so(evaluate):
    code, text = evaluate("harmful", "--unsafe-code", "--no-base")
    assert (code, "harmful" in text) == (0, True), text


def test_a_place_that_cannot_hold_results_is_said_before_anything_is_scored(evaluate, run):
    (run / "eval").write_text("")
    code, text = evaluate("few")
    assert (code, f"{run}/eval is a file" in text, len(text.splitlines())) == (2, True, 1), text


def test_a_run_without_an_adapter_or_with_that_of_another_base_is_refused(evaluate, run):
    config = run / "adapter/adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "base_model_name_or_path": "some/other-model"}))
    code, text = evaluate("few")
    assert (code, "was trained on some/other-model" in text, len(text.splitlines())) == (2, True, 1), text
    shutil.rmtree(run / "adapter")
    code, text = evaluate("few")
    assert (code, "has no adapter yet. Make it with" in text, len(text.splitlines())) == (2, True, 1), text
    assert not (run / "eval").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("eval.include_path", "tasks #2"), ("eval.include_path", "on"), ("merge.gates", "topic:a: b # c, [d]")],
)
def test_options_are_text_whatever_yaml_makes_of_it(key, value, tiny_recipe):
    from topiclora_cli.cli.options import assignment
    from topiclora_cli.recipe import load_recipe

    section, name = key.split(".")
    recipe = load_recipe(str(tiny_recipe), [assignment(key, value)])
    assert getattr(getattr(recipe, section), name) == value


def test_a_grid_knows_what_cannot_be_scored_before_it_trains(tiny_recipe, task_folder, run_cli, tmp_path):
    settings = ["--set", f"eval.include_path='{task_folder}'", "--set", "eval.tasks=[few, lazy]"]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *settings)
    assert (code, "needs a Python package" in text) == (2, True), text
    assert "Training data" not in text


def test_a_cell_keeps_its_own_scores_whatever_else_was_evaluated_in_it(tiny_recipe, task_folder, run_cli, tmp_path):
    settings = ["--set", "adapter.router=linear", "--set", "loss.kl.weight=0", "--set", "train.max_steps=1"]
    settings += ["--set", f"eval.include_path='{task_folder}'", "--set", "eval.tasks=[cloze]", "--cells", "full"]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *settings)
    assert code == 0, text
    assert "Ablation: perplexity ↓" in text
    row = next(line for line in text.splitlines() if line.startswith(" full"))
    assert run_cli("eval", "--run", "grid/ablation/full-s0", "--tasks", "few", "--no-base")[0] == 0
    code, text = run_cli("ablate", "--run", "grid", *settings[2:])
    assert code == 0, text
    assert row in text
