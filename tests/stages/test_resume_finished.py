"""What --resume does where there is nothing left to train, and what it adds up where there is."""

import hashlib
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import write_tiny_recipe
from topiclora_cli.cli.console import TerminalProgress, make_console
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.train import _spent
from topiclora_cli.stages.whole import start_run, train_with_graph


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    """A tiny run that has been trained."""
    folder = tmp_path_factory.mktemp("resume")
    recipe = load_recipe(str(write_tiny_recipe(folder, tiny_model_dir)))
    train_with_graph(*start_run(recipe, folder / "run"), TerminalProgress(make_console(quiet=True)))
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    return RunDir(shutil.copytree(trained, tmp_path / "run"))


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return [(path, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def test_a_finished_training_is_said_to_be_finished_and_nothing_is_touched(run, run_cli):
    before = contents(run.path)
    code, text = run_cli("train", "--run", "run", "--resume")
    assert code == 0, text
    assert "run is trained to its end, 6 steps. To train longer, start anew: topiclora train --recipe" in text
    assert "--set train.max_steps=12 --out NEW" in text
    assert contents(run.path) == before


def test_a_finished_training_takes_no_change(run, run_cli):
    before = contents(run.path)
    code, text = run_cli("train", "--run", "run", "--resume", "--set", "train.max_steps=9")
    assert code == 2
    assert "without train.max_steps as given now. Train a new run: topiclora train --recipe" in text
    assert "--set train.max_steps=9 --out NEW" in text
    assert contents(run.path) == before


def test_a_training_cut_off_after_its_last_step_takes_no_other(run, run_cli):
    weights = (run.path / "adapter" / "adapter_model.safetensors").read_bytes()
    metrics = (run.path / "metrics.jsonl").read_bytes()
    shutil.rmtree(run.path / "adapter")
    run.record("train", replace(run.stage("train"), state="interrupted", seconds=1000.0, result=None))
    code, text = run_cli("train", "--run", "run", "--resume")
    assert code == 0, text
    assert "7/6" not in text
    record = run.stage("train")
    assert (record.state, record.result.steps, record.seconds > 1000) == ("done", 6, True)
    assert (run.path / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert (run.path / "metrics.jsonl").read_bytes() == metrics


def test_of_a_killed_training_the_time_to_its_last_checkpoint_counts(run):
    started = datetime.now(UTC) - timedelta(seconds=500)
    record = replace(run.stage("train"), state="running", started=started.isoformat(), seconds=100.0, result=None)
    run.record("train", record)
    (run.path / "checkpoints" / "checkpoint-6" / "last").touch()
    assert 590 < _spent(run) < 610
    shutil.rmtree(run.path / "checkpoints")
    assert _spent(run) == 0


def test_a_stage_that_goes_on_adds_its_seconds_to_those_before(run):
    with run.running("train", spent=50.0):
        assert json.loads((run.path / "run.json").read_text())["stages"]["train"]["seconds"] == 50.0
    assert 50 <= run.stage("train").seconds < 60
