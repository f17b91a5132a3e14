"""A run directory: one folder that holds everything a recipe produced, with a manifest that says what is finished.

    runs/<name>-<time>/
      recipe.yaml   the resolved recipe          graph/  adapter/  checkpoints/  eval/  merged/  ablation/
      run.json      the manifest                 metrics.jsonl  report.md

Of evaluations and exports a run has any number, each under its name: eval/NAME, merged/NAME.

A stage counts only once the manifest says "done"; anything else is redone or resumed.
"""

import datetime
import itertools
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.files import make_folder, write_text
from topiclora_cli.runs.machine import machine, versions, watched_peak
from topiclora_cli.runs.results.manifest import read_manifest, write_manifest
from topiclora_cli.runs.results.record import Manifest, PeakMemory, Settings, StageRecord, StageResult, State

MANIFEST = "run.json"
RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
LOCK = ".lock"
ADAPTER_CONFIG = "adapter_config.json"
_OF_TRAINING = ("checkpoints/*", "adapter")
_RESULTS = (*_OF_TRAINING, *(f"ablation/*/{made}" for made in _OF_TRAINING), "ablation/results.json")


@dataclass
class Running:
    """A stage at work, which leaves here what came out for the manifest to keep."""

    result: StageResult | None = None


class RunDir:
    """One run on disk.

    Raises TopicLoraError where the folder is no run, is locked by another process, or its manifest is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._new = False  # made by this very command
        if not is_run(self.path):
            raise TopicLoraError(
                f"{self.path} is not a run directory (it has no {MANIFEST}).",
                _known_runs_hint(self.path),
            )
        self.manifest  # noqa: B018 -- a damaged manifest is reported now, not after an hour of training

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, recipe_yaml: str, name: str, seed: int) -> "RunDir":
        """Make a new run at `path`.

        Takes the place of a run none of whose stages got anywhere; raises TopicLoraError if anything else is there,
        such as a run that another process has just made.
        """
        path = Path(path)
        taken = TopicLoraError(f"{path} exists and is not empty.", "Choose another --out, or continue it with --run.")
        if path.exists() and _holds_something(path) and not (path / MANIFEST).is_file():
            raise taken
        make_folder(path)
        # Whoever holds the lock makes the run, and the next one finds it made.
        with _locked(path):
            if _holds_something(path):
                if not _got_nowhere(path):
                    raise taken
                _clear(path)
            write_text(path / RECIPE, recipe_yaml)
            write_manifest(path / MANIFEST, _new_manifest(name, seed))
        made = cls(path)
        made._new = True
        return made

    @property
    def adapter(self) -> Path:
        """Folder of its adapter, there or not."""
        return adapter_in(self.path)

    @property
    def manifest(self) -> Manifest:
        """What the run says of itself now."""
        return read_manifest(self.path / MANIFEST)

    def update(self, **entries: Any) -> None:
        """Change these fields of the manifest, which is of today's format from then on."""
        write_manifest(self.path / MANIFEST, replace(self.manifest, **entries))

    def stage(self, name: str) -> StageRecord | None:
        """The manifest's record of a stage, None when it never started."""
        return self.manifest.stages.get(name)

    def is_done(self, name: str) -> bool:
        record = self.stage(name)
        return record is not None and record.state == "done"

    @contextmanager
    def running(
        self, name: str, *, recipe: str | None = None, overridden: Settings | None = None, spent: float = 0.0
    ) -> Iterator[Running]:
        """Mark a stage running, then done with its seconds and the result that the block leaves.

        However it ends, the record says with which versions and on what machine it ran, and the most memory it held.
        recipe, overridden: as in a StageRecord. spent: seconds that went into it before, where it goes on.
        """
        record = StageRecord(
            "running", _now(), seconds=spent or None, recipe=recipe, overridden=overridden or {}, versions=versions()
        )
        self.record(name, record)
        begin = time.monotonic()
        running = Running()
        with watched_peak() as peak:
            try:
                yield running
            except BaseException as error:
                state: State = "failed" if isinstance(error, TopicLoraError) else "interrupted"
                self.record(name, _ended(record, state, begin, peak()))
                raise
            self.record(name, replace(_ended(record, "done", begin, peak()), result=running.result))

    def record(self, name: str, record: StageRecord) -> None:
        """Put a stage's record into the manifest."""
        self.update(stages={**self.manifest.stages, name: record})

    @contextmanager
    def lock(self, *, patience: float = 0) -> Iterator[None]:
        """Hold the run for writing; the operating system frees it when the process dies.

        patience: seconds to wait for another process that holds it.

        Where the command that made the run fails, a run without any stage goes again, and one that was not trained is
        marked as one that got nowhere, until another command succeeds in it.
        """
        with _locked(self.path, patience):
            if not is_run(self.path):
                _vacate(self.path)  # the lock made it again
                raise TopicLoraError(f"{self.path} is gone.", "It was deleted, or the command that made it has failed.")
            try:
                yield
            except Exception:
                if self._new:
                    self._give_up()
                raise
            if self.path.exists() and self.manifest.got_nowhere:
                self.update(got_nowhere=False)

    def _give_up(self) -> None:
        if not self.manifest.stages:
            _clear(self.path)
            _vacate(self.path)
        elif not _has_results(self.path):
            self.update(got_nowhere=True)

    def require(self, relative: str, *, made_by: str) -> Path:
        """Path of an artefact; raises TopicLoraError naming the command that makes it when it is absent."""
        path = self.adapter if relative == "adapter" else self.path / relative
        if not path.exists():
            raise TopicLoraError(
                f"{self.path} has no {relative} yet.", f"Make it with: {command_line(made_by, '--run', self.path)}"
            )
        return path


def adapter_in(path: Path) -> Path:
    """Folder of a run's adapter: `adapter`, or the run's own where one was imported, which lies beside the manifest."""
    trained = path / "adapter"
    return path if not trained.exists() and (path / ADAPTER_CONFIG).is_file() else trained


def is_run(path: Path) -> bool:
    """Whether a folder says that it is a run, whatever its state."""
    return (path / MANIFEST).is_file()


def new_run_path(root: str | os.PathLike[str], name: str) -> Path:
    """Make the empty folder `root/<name>-<time>`, with a counter for runs that start within one second."""
    stem = Path(root) / f"{name}-{datetime.datetime.now().strftime('%Y%m%d-%H%M%S')}"
    make_folder(stem.parent)
    for count in itertools.count(1):
        path = stem if count == 1 else stem.with_name(f"{stem.name}-{count}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError


@contextmanager
def _locked(path: Path, patience: float = 0) -> Iterator[None]:
    lock = FileLock(path / LOCK, timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        raise TopicLoraError(
            f"{path} is in use by another topiclora process.", "Wait for it, or choose another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _holds_something(path: Path) -> bool:
    return not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir())


def _got_nowhere(path: Path) -> bool:
    """Whether all that a run has done is fail. One without any stage may be about to begin."""
    if not is_run(path):
        return False
    manifest = RunDir(path).manifest
    stages = manifest.stages.values()
    failed = manifest.got_nowhere or bool(stages)
    return failed and not _has_results(path) and all(stage.state == "failed" for stage in stages)


def _has_results(path: Path) -> bool:
    """Whether there is something of a training, or of a grid's cells, that one may want to go on with."""
    return any(any(path.glob(made)) for made in _RESULTS)


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _vacate(path: Path) -> None:
    """Remove a folder that holds nothing but the lock; one that cannot go, such as a mount, stays."""
    with suppress(OSError):
        (path / LOCK).unlink(missing_ok=True)
        path.rmdir()


def _known_runs_hint(path: Path) -> str:
    names = [beside.name for beside in path.parent.iterdir() if is_run(beside)] if path.parent.is_dir() else []
    return nearest(path.name, names) if names else "See: topiclora runs list"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _ended(record: StageRecord, state: State, begin: float, peak: PeakMemory) -> StageRecord:
    """Of a stage that began then, by time.monotonic; asked at its end, when it has loaded what knows accelerators."""
    seconds = round((record.seconds or 0.0) + time.monotonic() - begin, 1)
    return replace(record, state=state, seconds=seconds, machine=machine(), peak=peak)


def _new_manifest(name: str, seed: int) -> Manifest:
    return Manifest(name, seed, _now(), versions(), platform.platform(), os.cpu_count(), _git_state())


def _git_state() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
