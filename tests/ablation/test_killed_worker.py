"""A worker killed in the middle of a cell costs that cell alone, which goes on from its checkpoint when retried."""

import os
import signal
import threading
import time

import pytest
import yaml

from topiclora_cli.ablation import launch as launching
from topiclora_cli.ablation.failures import read_failure
from topiclora_cli.ablation.launch import launch
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.ablation.runner import prepare_grid
from topiclora_cli.ablation.states import cell_states, failed_lines
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.stages.whole import start_run

pytestmark = pytest.mark.distributed


class Kept(LoggedProgress):
    """What was said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def kill_at_checkpoint(launcher, cell):
    """Kill the worker that is at the cell once a checkpoint of it is sealed."""
    checkpoint = launcher.folder / cell / "checkpoints" / "checkpoint-2" / "sealed.json"
    end = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < end:
        time.sleep(0.02)
    for worker in launcher._slots:
        if worker is not None and worker.cell is not None and worker.cell.folder == cell:
            os.kill(worker.process.pid, signal.SIGKILL)


def test_a_killed_worker_costs_its_cell_alone(tiny_recipe, tmp_path, monkeypatch):
    values = yaml.safe_load(tiny_recipe.read_text())
    values["ablation"]["cells"] = {
        "kl_off": {"loss.kl.weight": 0.0, "train.max_steps": 60},
        "lora": {"adapter.method": "lora"},
    }
    tiny_recipe.write_text(yaml.safe_dump(values))
    recipe, run = start_run(load_recipe(str(tiny_recipe)), tmp_path / "r")
    progress, folder = Kept(), run.path / "ablation"
    grid = prepare_grid(recipe, run, progress)
    opened = launching.open_launcher

    def open_and_kill(*arguments):
        launcher = opened(*arguments)
        threading.Thread(target=kill_at_checkpoint, args=(launcher, "kl_off-s0"), daemon=True).start()
        return launcher

    monkeypatch.setattr(launching, "open_launcher", open_and_kill)
    scores = launch(grid, recipe, run, progress, LaunchOptions(jobs=2))
    assert {score.name for score in scores} == {"full", "lora"}
    assert {state.name: state.state for state in cell_states(grid, folder)} == {
        **dict.fromkeys(("full", "lora"), "done"),
        "kl_off": "failed",
    }
    failure = read_failure(folder / "kl_off-s0")
    assert (failure.stage, failure.reason) == ("train", "Its process was killed by signal 9 (SIGKILL).")
    assert any(line.startswith("Failed: kl_off-s0: Its process was killed") for line in progress.lines)
    assert sum(line.startswith("Finished: ") for line in progress.lines) == 2
    monkeypatch.setattr(launching, "open_launcher", opened)
    # Where nobody asks for it, it is not tried again.
    launch(grid, recipe, run, progress)
    assert len(list(failed_lines(cell_states(grid, folder)))) == 1
    again = Kept()
    scores = launch(grid, recipe, run, again, LaunchOptions(retry_failed=True))
    assert {score.name for score in scores} == {"full", "kl_off", "lora"}
    assert any(line.startswith("Resuming from ") for line in again.lines)
    assert not list(failed_lines(cell_states(grid, folder)))
