"""Taking runs away: a run is gone in one step, whatever happens while its files are deleted."""

import shutil

from topiclora_cli.runs.run import RunDir


def remove_run(run: RunDir) -> None:
    """Delete a run with all that it holds; raises TopicLoraError where a process works in it.

    It is renamed first, so that a deletion that is cut short leaves no run that looks whole.
    """
    going = run.path.with_name(f".removed-{run.path.name}")
    with run.lock():
        shutil.rmtree(going, ignore_errors=True)
        run.path.rename(going)
    shutil.rmtree(going)


def bytes_on_disk(run: RunDir) -> int:
    """What the files of a run take."""
    return sum(path.lstat().st_size for path in run.path.rglob("*") if not path.is_dir())
