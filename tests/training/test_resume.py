"""Stopping and going on: the loss after a kill or an interrupt is the loss without one, to the digit."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from topiclora_cli.training.checkpoints import SEAL, is_sound, latest_sound

pytestmark = pytest.mark.slow  # runs are killed and started again

STEPS = 40  # enough that a kill after the first checkpoint lands in the middle


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def straight(tiny_recipe, run_cli, tmp_path):
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "straight", "--set", f"train.max_steps={STEPS}")
    assert code == 0, text
    return rows(tmp_path / "straight")


def launch(recipe, out, *extra):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "topiclora_cli", "train", "--recipe", str(recipe), "--out", str(out), *extra]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_checkpoint(run, process):
    for _ in range(4000):
        if list(run.glob(f"checkpoints/checkpoint-2/{SEAL}")) or process.poll() is not None:
            return
        time.sleep(0.05)


def test_sigkill_then_resume_reaches_the_same_loss(straight, tiny_recipe, run_cli, tmp_path):
    run = tmp_path / "killed"
    process = launch(tiny_recipe, run, "--set", f"train.max_steps={STEPS}")
    wait_for_checkpoint(run, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((run / "run.json").read_text())["stages"]["train"]["state"] == "running"
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", run, "--resume")
    assert code == 0, text
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    for ours, expected in zip(rows(run), straight, strict=True):
        assert ours["loss"] == pytest.approx(expected["loss"], abs=1e-6)
        assert ours["loss_kl"] == pytest.approx(expected["loss_kl"], abs=1e-6)
        assert ours["dead_experts"] == expected["dead_experts"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_a_checkpoint_and_says_how_to_resume(number, code, tiny_recipe, tmp_path):
    run = tmp_path / "stopped"
    process = launch(tiny_recipe, run, "--set", "train.max_steps=2000")
    wait_for_checkpoint(run, process)
    process.send_signal(number)
    text = process.communicate(timeout=180)[0]
    assert process.returncode == code, text
    assert re.search(rf"(\btopiclora|-m topiclora_cli) train --run {re.escape(str(run))} --resume", text)
    assert "Traceback" not in text
    checkpoint, damaged = latest_sound(run / "checkpoints")
    assert checkpoint is not None
    assert not damaged


def test_damaged_checkpoints_are_passed_over(straight, tmp_path):
    folder = tmp_path / "straight" / "checkpoints"
    newest, older = folder / f"checkpoint-{STEPS}", folder / f"checkpoint-{STEPS - 2}"
    assert latest_sound(folder) == (newest, [])
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert not is_sound(newest)
    assert latest_sound(folder) == (older, [newest])
    (older / SEAL).unlink()
    assert latest_sound(folder) == (None, [newest, older])


def test_accumulation_gives_the_loss_of_one_large_batch(tiny_recipe, run_cli, tmp_path):
    for out, batch, accumulation in (("one", 8, 1), ("two", 4, 2)):
        code, text = run_cli(
            "train", "--recipe", tiny_recipe, "--out", out, "--set", f"train.batch_size={batch}",
            "--set", f"train.gradient_accumulation={accumulation}", "--set", "loss.kl.confidence_weighted=false",
        )  # fmt: skip
        assert code == 0, text
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-5)
        assert two["loss_lm"] == pytest.approx(one["loss_lm"], abs=2e-5)
