"""`topiclora eval` in two processes: what one finds, to the digit, written once."""

import json
import shutil

import pytest

from tests.evaluation.test_command import trained  # noqa: F401 -- a fixture
from tests.training.test_distributed import finish, torchrun
from topiclora_cli.evaluation.shares import generation_batches, likelihood_batches

TASKS = "choice,many,cloze,prose,free"


@pytest.fixture
def run(trained, tmp_path):  # noqa: F811
    return shutil.copytree(trained, tmp_path / "run")


def answers(folder):
    """What lm-eval wrote of every question, by model and task."""
    return {
        (path.parent.name, path.name.partition("_20")[0]): path.read_text() for path in folder.glob("*/samples_*.jsonl")
    }


@pytest.mark.distributed
def test_two_processes_find_what_one_does_and_the_first_writes(run, run_cli, task_folder):
    options = ["--include-path", str(task_folder), "--tasks", TASKS, "--batch-size", "3", "--limit", "11", "--fresh"]
    one, text = run_cli("eval", "--run", run, *options, "--name", "one")
    assert one == 0, text
    models = [part for model in ("base", run) for part in ("--model", str(model))]
    code, text = finish(torchrun("eval", *models, *options, "--name", "two"))
    assert code == 0, text
    assert text.count("Results: ") == 1, text
    alone, shared = answers(run / "eval/one"), answers(run / "eval/two")
    assert len(shared) == 2 * 5
    for (model, task), rows in alone.items():
        assert shared[{"tuned": "run"}.get(model, model), task] == rows
    assert len(list((run / "eval/two").glob("*/results_*.json"))) == 2
    first, second = (json.loads((run / "eval" / name).read_text()) for name in ("one/summary.json", "two/models.json"))
    rows = [row["tuned"] for row in second["models"][1]["scores"]["tasks"]]
    assert [row["tuned"] for row in first["tasks"]] == rows


@pytest.mark.distributed
def test_a_task_that_fails_ends_all_processes_with_a_line(run, task_folder):
    options = ["--include-path", str(task_folder), "--tasks", "breaks"]
    code, text = finish(torchrun("eval", *options, "--model", str(run)))
    assert code != 0, text
    assert "No task could be scored" in text


def test_batches_are_lm_evals():
    requests = [([1, 2], [3]), ([1, 2], [4]), ([1], [2, 3, 4]), ([5], [6]), ([1, 2, 3], [4, 5])]
    # The first two run once: they differ in their last token alone.
    assert likelihood_batches(requests, 2) == [[2, 4], [0, 1, 3]]
    assert generation_batches(["a", "b", "a"], [(2, "x"), (1, "y"), (3, "z")], 2) == [[2, 0], [1]]
