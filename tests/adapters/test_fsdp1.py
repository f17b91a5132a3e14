"""FSDP1 as peft sets it up, each trained leaf a unit of its own: the same step as in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ON_CPU = Path(__file__).with_name("fsdp1_on_cpu.py")


@pytest.mark.distributed
def test_a_step_under_fsdp1_is_that_of_one_process():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ON_CPU)]
    paths = os.pathsep.join([str(ON_CPU.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    assert len(results) == 2
    for alone, *sharded in results:
        for step in sharded:
            assert step == pytest.approx(alone, rel=1e-3)
