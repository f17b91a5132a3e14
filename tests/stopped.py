"""A finished training as it would lie there, had it been stopped."""

import shutil
from dataclasses import replace
from pathlib import Path

from topiclora_cli.runs.run import RunDir


def as_if_stopped(folder: Path | str, *, without: str | None = None) -> RunDir:
    """Take the end of its training from the run in `folder`, and the checkpoint named."""
    run = RunDir(folder)
    trained = run.stage("train")
    assert trained is not None
    run.record("train", replace(trained, state="interrupted", result=None))
    shutil.rmtree(run.path / "adapter")
    if without is not None:
        shutil.rmtree(run.path / "checkpoints" / without)
    return run
