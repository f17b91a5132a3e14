"""The script of a job array: what SLURM reads in it, and what the shell does where SLURM warns or cancels."""

import re
import signal
import subprocess
import time

import pytest

from topiclora_cli.ablation.grid import count_runs, make_grid
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.ablation.slurm import AT_ONCE, slurm_script
from topiclora_cli.recipe import build_recipe

RATES = {"train.learning_rate": [0.001, 0.01, 0.1]}


def grid(**ablation):
    values = {"name": "x", "model": {"name": "m"}, "data": {"validation": 4}, "ablation": ablation}
    return make_grid(build_recipe(values, where="here"))


def directives(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.M))


def test_runs_are_counted_with_values_at_the_first_seed_alone():
    assert count_runs(grid(seeds=[0, 1], cells={"a": {"loss.kl.weight": 0}}, base=True)) == 5
    assert count_runs(grid(seeds=[0, 1], tune=RATES)) == 4
    searched = {"train.learning_rate": "1e-4..1e-2:log"}
    assert count_runs(grid(seeds=[0, 1, 2], search="optuna", trials=10, tune=searched)) == 10 + 2 + 3


def test_the_array_has_a_task_for_every_run_and_asks_for_what_a_cell_takes(tmp_path):
    options = LaunchOptions(jobs=3, gpus=(0,), cpus=6)
    found = directives(slurm_script(tmp_path, grid(seeds=[0, 1], tune=RATES), options, []))
    assert (found["array"], found["cpus-per-task"], found["gres"]) == ("0-3%3", "6", "gpu:1")
    assert found["signal"] == "B:USR1@300"
    assert "requeue" in found
    many = directives(slurm_script(tmp_path, grid(seeds=list(range(20))), LaunchOptions(), []))
    assert many["array"] == f"0-19%{AT_ONCE}"
    assert "gres" not in many


def test_what_was_asked_for_stands_in_the_command(tmp_path):
    folder = tmp_path / "my study"
    options = LaunchOptions(keep_going=False, retry_failed=True)
    script = slurm_script(folder, grid(), options, ["--cells", "full", "--set", "train.max_steps=3"])
    assert f"ablate --run '{folder}' --cells full --set train.max_steps=3 --fail-fast --retry-failed &" in script
    assert directives(script)["job-name"] == "topiclora-my-study"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs a script's text with programs of ours in place of topiclora and scontrol; they write down what they do."""
    log, bin_ = tmp_path / "log", tmp_path / "bin"
    bin_.mkdir()

    def program(name, body):
        (bin_ / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_ / name).chmod(0o755)

    def start(works):
        program("topiclora", works)
        program("scontrol", f'echo "scontrol $*" >> "{log}"')
        path = tmp_path / "job.sh"
        script = slurm_script(tmp_path, grid(), LaunchOptions(), [])
        path.write_text(re.sub(r"^.*? ablate ", "topiclora ablate ", script, flags=re.M))
        assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
        surroundings = {"PATH": f"{bin_}:/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
        return subprocess.Popen(["bash", path], env={**surroundings, "LOG": str(log)})

    def end(process, number=None):
        deadline = time.monotonic() + 30
        while number is not None and not log.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if number is not None:
            process.send_signal(number)
        return process.wait(30), log.read_text().splitlines() if log.exists() else []

    return start, end


WORK = """
trap 'echo sealed >> "$LOG"; exit 143' TERM
echo started >> "$LOG"
for each in $(seq 600); do sleep 0.05; done
"""


def test_near_its_time_limit_a_task_seals_a_checkpoint_and_goes_into_the_queue_again(job):
    start, end = job
    assert end(start(WORK), signal.SIGUSR1) == (0, ["started", "sealed", "scontrol requeue 7_2"])


def test_a_task_that_is_cancelled_seals_a_checkpoint_and_does_not_come_back(job):
    start, end = job
    assert end(start(WORK), signal.SIGTERM) == (143, ["started", "sealed"])


def test_a_task_ends_with_the_code_of_its_command(job):
    start, end = job
    assert end(start("exit 1")) == (1, [])
