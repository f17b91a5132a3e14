"""What a stage ran on and how much memory it took, without a host's or a user's name.

Nothing here loads torch: an accelerator is asked about where a stage has loaded it already.
"""

import os
import platform
import resource
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from topiclora_cli.runs.results.record import Machine, PeakMemory

VERSIONED = ("topiclora", "torch", "transformers", "peft", "torch-geometric", "datasets", "lm-eval")
GIB = 1024**3


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


def peak_memory() -> PeakMemory:
    """The most that this process has held so far."""
    cuda = _cuda()
    accelerator = round(cuda.max_memory_allocated() / GIB, 3) if cuda is not None else None
    return PeakMemory(round(resident_gib(), 3), accelerator)


def resident_gib() -> float:
    """The most that this process has had in memory at once, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB


@cache  # a search of the whole environment, which every stage of a grid asks for
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
