"""What a stage ran on and how much memory it took, without a host's or a user's name.

Nothing here loads torch: an accelerator is asked about where a stage has loaded it already.
"""

import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from topiclora_cli.runs.results.record import Machine, PeakMemory

VERSIONED = ("topiclora", "torch", "transformers", "peft", "torch-geometric", "datasets", "lm-eval")
GIB = 1024**3
_PEAKS = Path("/proc/self/clear_refs")
_WATCHED: list[list[PeakMemory]] = []  # of each block that is watched now, the outermost first


def versions() -> dict[str, str | None]:
    """Python's version and those of the libraries that decide results; None for one that is not installed."""
    return {"python": platform.python_version(), **{package: _version(package) for package in VERSIONED}}


def machine() -> Machine:
    """This machine's processor, cores and memory, and the accelerator that torch computes on, if any."""
    cuda = _cuda()
    properties = cuda.get_device_properties(cuda.current_device()) if cuda is not None else None
    return Machine(
        processor=_processor(),
        cores=os.cpu_count(),
        memory_gib=_memory(),
        accelerator=properties.name if properties else None,
        accelerator_gib=round(properties.total_memory / GIB, 2) if properties else None,
    )


@contextmanager
def watched_peak() -> Iterator[Callable[[], PeakMemory]]:
    """What asks for the most that this process has held since the block began.

    A block within begins anew, and counts for the one around it. Where the system does not let a process begin anew, as
    Linux does, what is resident is of the process so far.
    """
    for around in _WATCHED:
        around.append(_peak())
    _begin_anew()
    before: list[PeakMemory] = []  # each block within
    _WATCHED.append(before)
    try:
        yield lambda: _largest([*before, _peak()])
    finally:
        _WATCHED.remove(before)


def resident_gib() -> float:
    """The most that this process has had in memory at once, in GiB, since it last began anew."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB


@cache  # a search of the whole environment, which every stage of a grid asks for
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _peak() -> PeakMemory:
    cuda = _cuda()
    accelerator = round(cuda.max_memory_allocated() / GIB, 3) if cuda is not None else None
    return PeakMemory(round(resident_gib(), 3), accelerator)


def _largest(peaks: Sequence[PeakMemory]) -> PeakMemory:
    resident = [peak.resident_gib for peak in peaks if peak.resident_gib is not None]
    accelerator = [peak.accelerator_gib for peak in peaks if peak.accelerator_gib is not None]
    return PeakMemory(max(resident, default=None), max(accelerator, default=None))


def _begin_anew() -> None:
    with suppress(OSError):
        _PEAKS.write_text("5", encoding="ascii")  # of this process's resident memory; see proc(5)
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 2)
    except (OSError, ValueError):
        return None


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
