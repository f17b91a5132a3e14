"""Scores by the topics of the run's graph and by experts: the same answers, sorted otherwise."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_tiny_recipe
from topiclora_cli.cli.app import main
from topiclora_cli.evaluation.by_topic import scores_of_parts
from topiclora_cli.recipe import altered, load_recipe
from topiclora_cli.reporting.by_topic import by_topic_tables
from topiclora_cli.reporting.markdown import write_report
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.runs.results.evaluation import EvalSummary, QuestionScores, ScoresByTopic
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.models import ModelScores
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.evaluate import evaluate


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
    assert [row["low"] for row in written] == [
        "" if p["low"] is None else str(p["low"]) for kind in ("topics", "experts") for p in parts[kind]
    ]
    kept = json.loads((trained / "eval/sorted/questions.json").read_text())["topics"]
    assert Counter(topic for task in kept.values() for tags in task for topic in tags) == own
    write_report(RunDir(trained))
    assert "**Scores by expert**" in (trained / "report.md").read_text()


def test_several_models_stand_side_by_side_under_the_topics_of_the_first_run_s_graph(
    trained, task_folder, run_cli, tmp_path, tiny_model_dir
):
    plain = write_tiny_recipe(tmp_path, tiny_model_dir)
    settings = ["--set", "adapter.router=linear", "--set", "loss.kl.weight=0", "--set", "train.max_steps=1"]
    assert run_cli("train", "--recipe", plain, "--out", "plain", *settings)[0] == 0
    asked = ["--tasks", "choice,few,topiclora_syllogisms", "--include-path", task_folder, "--by-topic"]
    models = ["--model", "base", "--model", "plain", "--model", trained]
    code, text = run_cli("eval", *models, *asked, "--name", "sorted-models")
    assert code == 0, text
    assert "Scores by topic, by the graph of run" in " ".join(text.split())
    found = read_result("plain/eval/sorted-models/models.json", ModelScores)
    assert (found.by_topic.graph, list(found.by_topic.models)) == ("run", ["base", "plain", "run"])
    assert run_cli("eval", "--run", trained, *asked, "--name", "alone")[0] == 0
    alone = read_result(trained / "eval/alone/summary.json", EvalSummary).by_topic
    assert found.by_topic.tasks == alone.tasks
    assert found.by_topic.models["run"] == alone.topics  # whose base is the first model here
    first = found.by_topic.models["base"]
    assert [part.tuned for part in first] == [part.base for part in alone.topics]
    assert {part.delta for part in first} == {None}
    with open("plain/eval/sorted-models/by_topic.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [label for label in ("base", "plain", "run") for _ in first]
    assert {row["graph"] for row in rows} == {"run"}
    write_report(RunDir("plain"))
    assert "by the graph of run" in Path("plain/report.md").read_text()


def test_several_models_without_any_graph_say_so_before_anything_is_scored(tiny_model_dir, run_cli):
    code, text = run_cli("eval", "--model", tiny_model_dir, "--by-topic")
    assert (code, "no run that is named has one" in " ".join(text.split()), "Scores" in text) == (2, True, False), text


def test_a_topic_of_ten_questions_has_an_interval_and_one_of_fewer_none():
    random = np.random.default_rng(0)
    after, before = (random.integers(0, 2, 19).astype(float).tolist() for _ in range(2))
    parts = {"a": [["many"]] * 10 + [["few"]] * 9}
    many, few = scores_of_parts(parts, QuestionScores({"a": {"acc": after}}, {"a": {"acc": before}}), {"a": "acc"})
    assert many.low < many.delta < many.high
    assert (few.low, few.high) == (None, None)
    assert few.delta is not None
    tables = by_topic_tables(ScoresByTopic(("a",), (many, few), ()))
    shown = [row[-1].text for row in tables[0].rows]
    assert ("[" in shown[0], "[" in shown[1]) == (True, False)


def test_a_run_without_a_graph_says_so_before_anything_is_scored(tiny_model_dir, tmp_path, run_cli):
    recipe = write_tiny_recipe(tmp_path, tiny_model_dir)
    settings = ["--set", "adapter.router=linear", "--set", "loss.kl.weight=0", "--set", "train.max_steps=1"]
    assert run_cli("train", "--recipe", recipe, "--out", "run", *settings)[0] == 0
    code, text = run_cli("eval", "--run", "run", "--by-topic")
    assert (code, "the run has none" in text, "Scores" in text) == (2, True, False), text
    asked = altered(load_recipe("run/recipe.yaml"), [("eval.by_topic", True), ("eval.limit", 2)], where="here")
    scored = evaluate(asked, RunDir("run"), LoggedProgress(), graphless=True)  # as a cell of a grid is
    assert (scored.by_topic, scored.failed, len(scored.tasks) > 0) == (None, {}, True)
