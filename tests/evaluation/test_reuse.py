"""`topiclora eval` twice: what is scored again, what is not, and an evaluation that was stopped."""

import shutil

import pytest

from tests.evaluation.test_command import trained  # noqa: F401 -- a fixture
from topiclora_cli.evaluation import running


@pytest.fixture
def run(trained, tmp_path):  # noqa: F811
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def scored(monkeypatch):
    """The tasks that lm-eval was called for, in order; `stop_at` one of them, by its number from 1."""
    names, run_task = [], running._run_task

    class Names(list):
        stop_at = 0

        def run(self, lm, name, *rest):
            self.append(name)
            if len(self) == self.stop_at:
                raise KeyboardInterrupt
            return run_task(lm, name, *rest)

    names = Names()
    monkeypatch.setattr(running, "_run_task", names.run)
    return names


@pytest.fixture
def evaluate(run, run_cli, task_folder):
    def call(*more, of=run, tasks="few,many"):
        return run_cli("eval", "--run", of, "--include-path", task_folder, "--tasks", tasks, *more)

    return call


def test_the_base_is_scored_once_for_all_runs_and_the_tuned_model_each_time_unless_told(
    evaluate, run, scored, tmp_path
):
    assert evaluate()[0] == 0
    assert scored == ["few", "many"] * 2
    stored = (run / "eval/few,many/summary.json").read_bytes()
    assert evaluate()[0] == 0
    assert scored[4:] == ["few", "many"]
    assert evaluate(tasks="many", of=shutil.copytree(run, tmp_path / "moved"))[0] == 0
    assert evaluate("--reuse")[0] == 0
    assert scored[6:] == []
    assert (run / "eval/few,many/summary.json").read_bytes() == stored
    assert evaluate("--fresh")[0] == 0
    assert scored[6:] == ["few", "many"] * 2


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_evaluation_that_was_stopped_goes_on_with_the_next_task(evaluate, run, scored, number):
    scored.stop_at = number
    code, text = evaluate()
    assert code != 0, text
    assert not (run / "eval/few,many/summary.json").exists()
    scored.clear()
    scored.stop_at = 0
    assert evaluate()[0] == 0
    assert scored == (["few", "many"] * 2)[number - 1 :]
    stopped = (run / "eval/few,many/summary.json").read_bytes()
    assert evaluate("--fresh")[0] == 0
    assert (run / "eval/few,many/summary.json").read_bytes() == stopped
