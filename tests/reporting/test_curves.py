"""`topiclora runs show`: curves in the terminal and as a picture, from metrics.jsonl alone."""

import json

import pytest

from topiclora_cli.reporting.chart import BLOCKS, smoothed, sparkline
from topiclora_cli.runs.run import RunDir


@pytest.fixture
def run(tmp_path):
    """A run with forty logged steps, two validations and an alarm; nothing of it was trained."""
    directory = RunDir.create(tmp_path / "run", recipe_yaml="", name="made-up", seed=3)
    rows = [{"step": s, "loss": 3 - s / 40, "loss_kl": 1.0, "effective_experts": 2.5} for s in range(1, 41)]
    rows[29]["alarms"] = {"kl_not_falling": "The KL has hardly fallen."}
    rows[20:20] = [{"step": 20, "eval_loss": 2.9, "eval_kl": 0.5}]
    rows.append({"step": 40, "eval_loss": 2.7, "eval_kl": 0.4})
    (directory.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory.path


def test_show_draws_the_curves_and_repeats_the_alarms(run, run_cli):
    code, text = run_cli("runs", "show", run)
    assert code == 0, text
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert f"{BLOCKS[7]}" in lines["loss"]
    assert lines["loss"].split()[-4:] == ["2.975", "2", "2.975", "2"]
    assert lines["eval loss"].split()[-4:] == ["2.9", "2.7", "2.9", "2.7"]
    assert "Alarm at step 30: The KL has hardly fallen." in text


def test_png(run, run_cli, tmp_path):
    code, text = run_cli("runs", "show", run, "--png", "new/curves.png")
    assert code == 0, text
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_or_written(run, run_cli, tmp_path):
    (tmp_path / "file").write_text("")
    code, text = run_cli("runs", "show", run, "--png", "file/curves.png")
    assert (code, "cannot be written" in text) == (2, True), text
    (run / "metrics.jsonl").unlink()
    assert run_cli("runs", "show", run)[0] == 0
    code, text = run_cli("runs", "show", run, "--png", "curves.png")
    assert (code, "no training curves" in text) == (2, True), text


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], BLOCKS),
        ([5, 5, 5], BLOCKS[0] * 3),
        ([1.0, float("nan"), 0.0], f"{BLOCKS[7]} {BLOCKS[0]}"),
        ([float("inf")], " "),
        ([], ""),
    ],
)
def test_sparkline(values, line):
    assert sparkline(values) == line


def test_a_long_history_is_averaged_to_the_width():
    assert sparkline([0.0] * 50 + [1.0] * 50, width=10) == BLOCKS[0] * 5 + BLOCKS[7] * 5


def test_a_smoothed_course_keeps_its_level_and_loses_its_noise():
    noisy = [1.0 + (-1) ** n for n in range(100)]
    even = smoothed(noisy)
    assert len(even) == 100
    assert max(abs(value - 1.0) for value in even[10:-10]) < 0.1
    assert smoothed([3.0, 5.0]) == [3.0, 5.0]
