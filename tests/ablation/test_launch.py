"""A grid worked off: a cell that fails costs itself alone, is on record with its reason, and is retried on request."""

import errno
import json
import signal

import pytest

from topiclora_cli.ablation import attempt as attempts
from topiclora_cli.ablation.cell import make_cell
from topiclora_cli.ablation.failures import forget_failure, read_failure
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.launch import launch
from topiclora_cli.ablation.launchers import Ended
from topiclora_cli.ablation.launchers.here import Here
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.ablation.reports import Reports
from topiclora_cli.ablation.states import cell_states, failed_lines
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import Diverged, Interrupted, TopicLoraError
from topiclora_cli.recipe import build_recipe, dump_recipe
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.runs.run import RunDir


@pytest.fixture
def grid_run(tmp_path, monkeypatch):
    """A grid of three cells whose training is `behave[name]()`, and nothing else; the cells that ran, in order."""
    cells = {name: {"loss.kl.weight": weight} for name, weight in (("a", 0.2), ("b", 0.3))}
    recipe = build_recipe({"name": "x", "model": {"name": "m"}, "ablation": {"cells": cells}}, where="here")
    run = RunDir.create(tmp_path / "r", recipe_yaml=dump_recipe(recipe), name="x", seed=0)
    behave, ran = {}, []

    def train(folder, cell, grid, progress):
        ran.append(cell.name)
        behave.get(cell.name, lambda: None)()
        made = RunDir(folder / cell.folder)
        with made.running("train"), made.running("eval"):
            return made

    scored = lambda self, cell: (  # noqa: E731
        "scored" if (self.folder / cell.folder).exists() and RunDir(self.folder / cell.folder).is_done("eval") else None
    )
    monkeypatch.setattr(attempts, "train_cell", train)
    monkeypatch.setattr(attempts, "score_cell", lambda *_: None)
    monkeypatch.setattr(Work, "result", scored)
    monkeypatch.setattr(Reports, "write", lambda self: [])
    grid = make_grid(recipe)

    def call(**options):
        ran.clear()
        launch(grid, recipe, run, LoggedProgress(), LaunchOptions(**options))
        return list(ran)

    return call, behave, grid, run.path / "ablation"


def fail(error):
    def raising():
        raise error

    return raising


def states(grid, folder):
    return {state.name: state.state for state in cell_states(grid, folder)}


def test_a_cell_that_fails_leaves_the_others_running_and_is_on_record(grid_run):
    call, behave, grid, folder = grid_run
    behave["a"] = fail(TopicLoraError("No space for it.", "Make some."))
    assert call() == ["full", "a", "b"]
    assert states(grid, folder) == {"full": "done", "a": "failed", "b": "done"}
    failure = read_failure(folder / "a-s0")
    assert (failure.cell, failure.seed, failure.reason, failure.hint) == ("a", 0, "No space for it.", "Make some.")
    assert (failure.stage, failure.attempt, failure.diverged) == ("graph", 1, False)
    assert list(failed_lines(cell_states(grid, folder))) == ["a-s0: No space for it. Make some."]


def test_failed_cells_are_tried_again_on_request_alone(grid_run):
    call, behave, grid, folder = grid_run
    behave["a"] = fail(TopicLoraError("No."))
    call()
    assert call() == []
    assert call(retry_failed=True) == ["a"]
    assert read_failure(folder / "a-s0").attempt == 2
    del behave["a"]
    assert call(retry_failed=True) == ["a"]
    assert read_failure(folder / "a-s0") is None
    assert states(grid, folder)["a"] == "done"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left on device")]
)
def test_a_full_disk_ends_the_grid_and_is_no_failure_of_a_cell(grid_run, error):
    call, behave, grid, folder = grid_run
    behave["a"] = fail(error)
    with pytest.raises(OSError, match="No space left on device"):
        call()
    assert states(grid, folder) == {"full": "done", "a": "waiting", "b": "waiting"}
    del behave["a"]
    assert call() == ["a", "b"]


def test_a_disk_too_full_for_a_cell_s_folder_ends_the_grid_from_a_worker_too(grid_run, monkeypatch):
    _, _, grid, folder = grid_run
    no_room = fail(OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(attempts, "make_cell", lambda *_: no_room())
    assert attempts.attempt(grid[0], grid, folder, LoggedProgress()).how == "full"


def test_a_worker_that_dies_before_its_cell_has_a_folder_is_on_record_and_not_begun_again(grid_run, monkeypatch):
    call, _, grid, folder = grid_run
    monkeypatch.setattr(Here, "start", lambda self, cell: self._ended.append(Ended(cell, "died", "Killed", "Log: x")))
    call()
    assert set(states(grid, folder).values()) == {"failed"}
    assert "a-s0: Killed. Log: x" in list(failed_lines(cell_states(grid, folder)))


@pytest.mark.parametrize("file", ["run.json", "notes.txt"])
def test_a_cell_s_folder_that_is_no_run_is_named_with_what_to_do(grid_run, file):
    _, _, grid, folder = grid_run
    (folder / "a-s0").mkdir(parents=True)
    (folder / "a-s0" / file).write_text("{")
    with pytest.raises(TopicLoraError, match=r"a-s0.*\. Delete .*a-s0, and the cell is run anew"):
        make_cell(folder, grid[1])
    assert (folder / "a-s0" / file).read_text() == "{"


def test_fail_fast_ends_at_the_first(grid_run):
    call, behave, grid, folder = grid_run
    behave["full"] = fail(TopicLoraError("No."))
    assert call(keep_going=False) == ["full"]
    assert states(grid, folder) == {"full": "failed", "a": "waiting", "b": "waiting"}
    assert call(keep_going=False) == ["a", "b"]


def test_a_bug_keeps_its_traceback_in_the_cell_s_folder(grid_run):
    call, behave, grid, folder = grid_run
    behave["a"] = fail(ZeroDivisionError("by nought"))
    assert call() == ["full", "a", "b"]
    (line,) = failed_lines(cell_states(grid, folder))
    log = folder / "a-s0" / "failure.log"
    assert line == f"a-s0: ZeroDivisionError: by nought. Traceback: {log}"
    assert "in raising" in log.read_text()
    forget_failure(folder / "a-s0")
    assert not log.exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_memory_that_runs_out_says_what_needs_less(grid_run, error):
    call, behave, _, folder = grid_run
    behave["b"] = fail(error)
    call()
    failure = read_failure(folder / "b-s0")
    assert failure.reason.startswith(type(error).__name__)
    assert failure.hint.startswith("Lower train.batch_size")


def test_a_loss_that_is_no_number_is_told_apart(grid_run):
    call, behave, grid, folder = grid_run
    behave["b"] = fail(Diverged("Not finite at step 3.", "Lower train.learning_rate."))
    call()
    assert states(grid, folder)["b"] == "diverged"
    assert list(failed_lines(cell_states(grid, folder))) == ["b-s0: Not finite at step 3. Lower train.learning_rate."]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_grid_with_its_code_and_no_failure(grid_run, number, code):
    call, behave, grid, folder = grid_run
    before = signal.getsignal(number)
    behave["a"] = lambda: signal.raise_signal(number)
    with pytest.raises(Interrupted) as stop:
        call()
    assert stop.value.exit_code == code
    assert signal.getsignal(number) is before
    assert states(grid, folder) == {"full": "done", "a": "waiting", "b": "waiting"}
    del behave["a"]
    assert call() == ["a", "b"]


def test_a_grid_stopped_in_training_says_at_which_step(grid_run):
    call, behave, _, _ = grid_run
    behave["a"] = fail(Interrupted(signal.SIGINT, 7))
    with pytest.raises(Interrupted, match="at step 7"):
        call()


def test_states_of_values_to_try(tmp_path):
    tune = {"train.learning_rate": [0.1, 0.2]}
    values = {"name": "x", "model": {"name": "m"}, "data": {"validation": 4}}
    recipe = build_recipe({**values, "ablation": {"seeds": [0, 1], "tune": tune}}, where="here")
    grid = make_grid(recipe)

    def states_now():
        return {state.folder: state.state for state in cell_states(grid, tmp_path)}

    trials = ["full-s0-learning_rate=0.1", "full-s0-learning_rate=0.2"]
    assert states_now() == {**dict.fromkeys(trials, "waiting"), "full-s1": "waiting"}
    for loss, cell in zip((2.0, 1.0), grid, strict=False):
        run = RunDir.create(tmp_path / cell.folder, recipe_yaml=dump_recipe(cell.recipe), name=cell.name, seed=0)
        with run.running("train"):
            (run.path / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval_loss": loss}))
    assert states_now() == {trials[0]: "tried", trials[1]: "waiting", "full-s1-learning_rate=0.2": "waiting"}
    RunDir(tmp_path / trials[1]).update(diverged="not finite")
    assert states_now() == {trials[0]: "waiting", trials[1]: "diverged", "full-s1-learning_rate=0.1": "waiting"}
    assert list(failed_lines(cell_states(grid, tmp_path))) == []
    RunDir(tmp_path / trials[0]).update(diverged="not finite")
    assert states_now() == {**dict.fromkeys(trials, "diverged"), "full-s1": "waiting"}
    (line,) = failed_lines(cell_states(grid, tmp_path))
    assert line.startswith("full-s1: not run, because training diverged with every value")
