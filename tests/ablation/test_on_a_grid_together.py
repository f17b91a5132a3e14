"""Whole grids of the tiny model: searched by optuna, and worked off by the tasks of a job array."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import topiclora_cli

pytest.importorskip("optuna")

RATES = "train.learning_rate=1e-3..1e-1:log"
HELD_OUT = ["--set", "data.validation=4", "--set", "train.max_steps=2", "--set", "train.eval_steps=1"]


@pytest.mark.slow
def test_a_search_ends_in_a_table_with_the_untuned_recipe_beside_it(tiny_recipe, run_cli, tmp_path):
    asked = ["--search", "optuna", "--trials", "3", "--tune", RATES, "--seeds", "0,1", *HELD_OUT]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *asked)
    assert code == 0, text
    assert re.search(r"Search of full: 3 trials.*; best train\.learning_rate=", text)
    folder = tmp_path / "grid" / "ablation"
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["cells"]}
    assert {name: row["seeds"] for name, row in rows.items()} == {"full": 2, "untuned": 2, "kl_off": 2}
    assert rows["untuned"]["tuned"] == {}
    for name in ("full", "kl_off"):
        losses = {each["values"]["train.learning_rate"]: each["eval_loss"] for each in rows[name]["tried"]}
        assert rows[name]["tuned"]["train.learning_rate"] == min(losses, key=losses.get)
        assert len(list(folder.glob(f"{name}-s0-*"))) == 3
        assert len(list(folder.glob(f"{name}-s1-*"))) == 1
    assert not list(folder.glob("*/checkpoints"))
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl")}
    code, text = run_cli("ablate", "--run", "grid")
    assert code == 0, text
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl")}


@pytest.mark.slow
@pytest.mark.distributed
def test_two_tasks_of_an_array_divide_a_tuned_grid(tiny_recipe, run_cli, tmp_path):
    asked = ["--tune", "train.learning_rate=0.001,0.01", "--jobs", "2", "--print-slurm", *HELD_OUT]
    code, script = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", *asked)
    assert (code, script.splitlines()[0]) == (0, "#!/bin/bash")
    assert not list((tmp_path / "grid" / "ablation").glob("*-s0*"))
    assert "#SBATCH --array=0-3%2" in script
    (tmp_path / "job.sh").write_text(script)
    here, programs = Path(topiclora_cli.__file__).parents[1], Path(sys.executable).parent
    surroundings = {**os.environ, "PYTHONPATH": str(here), "PATH": f"{programs}:{os.environ['PATH']}"}
    tasks = [
        subprocess.Popen(
            ["bash", tmp_path / "job.sh"],
            env={**surroundings, "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": str(index)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    texts = [task.communicate(timeout=600)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], texts
    # Every value was tried by one of the two alone.
    started = re.findall(r"Ablation cell \d+/4: (\S+)", "".join(texts))
    assert len(set(started)) == 4
    assert len([name for name in started if "learning_rate" in name]) <= 4 + 2
    assert "Scored: all runs of 2 cells" in (tmp_path / "grid" / "ablation" / "report.md").read_text()
