"""Scores by the topics of the run's graph and by experts: the same answers, sorted otherwise."""

import csv
import json

import pytest

from tests.conftest import write_tiny_recipe
from topiclora_cli.cli.app import main
from topiclora_cli.evaluation.by_topic import scores_of_parts
from topiclora_cli.reporting.markdown import write_report
from topiclora_cli.runs.results.evaluation import QuestionScores
from topiclora_cli.runs.run import RunDir


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    """A run with a graph and two steps of training."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", str(recipe), "--out", str(folder / "run"), "--set", "train.max_steps=2"])
    assert not stop.value.code
    return folder / "run"


def test_questions_of_all_tasks_are_sorted_and_paired():
    answers = QuestionScores({"a": {"acc": [1, 0, 1]}, "b": {"em": [0]}}, {"a": {"acc": [0, 0, 1]}, "b": {"em": [1]}})
    parts = {"a": [["x"], ["y", "x"], ["y"]], "b": [["x"]]}
    x, y = scores_of_parts(parts, answers, {"a": "acc", "b": "em"})
    assert (x.part, x.count, x.tuned, x.base, x.delta) == ("x", 3, pytest.approx(1 / 3), pytest.approx(1 / 3), 0)
    assert (y.part, y.count, y.tuned, y.base, y.delta) == ("y", 2, 0.5, 0.5, 0)
    assert x.delta_stderr == pytest.approx((2 / 6) ** 0.5)
    alone = scores_of_parts(parts, QuestionScores(answers.tuned), {"b": "em"})
    assert [(part.part, part.base, part.tuned_stderr) for part in alone] == [("x", None, None)]


def test_a_run_shows_topics_and_experts_in_the_terminal_the_page_and_a_csv(trained, task_folder, run_cli, tmp_path):
    tasks = ["--tasks", "choice,few,topiclora_syllogisms", "--include-path", task_folder]
    code, text = run_cli("eval", "--run", trained, *tasks, "--by-topic", "--name", "sorted")
    assert code == 0, text
    assert "Scores by topic" in text
    assert "Scores by expert" in text
    stored = json.loads((trained / "eval/sorted/summary.json").read_text())
    rows = {row["task"]: row for row in stored["tasks"]}
    total = sum(row["count"] for row in rows.values())
    right = sum(row["count"] * row["tuned"] for row in rows.values())
    parts = stored["by_topic"]
    assert parts["tasks"] == ["choice", "few", "topiclora_syllogisms"]
    assert sum(part["count"] for part in parts["experts"]) == total
    assert sum(part["count"] * part["tuned"] for part in parts["experts"]) == pytest.approx(right)
    own = {part["part"]: part["count"] for part in parts["topics"]}
    assert own["logical reasoning"] >= 4  # the syllogisms say so themselves
    with (trained / "eval/sorted/by_topic.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["part"] for row in written] == [p["part"] for kind in ("topics", "experts") for p in parts[kind]]
    assert {row["by"] for row in written} == {"topic", "expert"}
    write_report(RunDir(trained))
    assert "**Scores by expert**" in (trained / "report.md").read_text()


def test_several_models_have_no_graph_in_common(trained, run_cli):
    code, text = run_cli("eval", "--model", trained, "--model", "base", "--by-topic")
    assert (code, "here are several models" in text) == (2, True), text


def test_a_run_without_a_graph_says_so_before_anything_is_scored(tiny_model_dir, tmp_path, run_cli):
    recipe = write_tiny_recipe(tmp_path, tiny_model_dir)
    settings = ["--set", "adapter.router=linear", "--set", "loss.kl.weight=0", "--set", "train.max_steps=1"]
    assert run_cli("train", "--recipe", recipe, "--out", "run", *settings)[0] == 0
    code, text = run_cli("eval", "--run", "run", "--by-topic")
    assert (code, "the run has none" in text, "Scores" in text) == (2, True, False), text
