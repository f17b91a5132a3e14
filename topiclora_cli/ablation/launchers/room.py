"""How many cells fit beside one another, by the memory estimate of a training: on a GPU, or in main memory."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers.places import cores
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.machine import GIB
from topiclora_cli.runs.progress import Progress

LIBRARIES = 1.0  # GiB of main memory that a worker takes for torch and what else it loads


def fitting(grid: Sequence[Cell], gpus: Sequence[int], progress: Progress) -> int:
    """How many cells at once suit this machine: one for each of the GPUs, or else for each core, as far as they fit
    into main memory."""
    if gpus:
        return len(gpus)
    need, there = cell_gib(grid, progress), free_gib()
    if need is None or there is None:
        return cores()
    return max(1, min(cores(), int(there / (need + LIBRARIES))))


def warn_of_crowding(grid: Sequence[Cell], jobs: int, gpus: Sequence[int], progress: Progress) -> None:
    """Say so where as many cells as share one of the GPUs hardly fit."""
    together = -(-jobs // max(1, len(gpus)))
    if not gpus or together == 1 or not (sizes := gpu_gib()):
        return
    there, need = min(sizes), cell_gib(grid, progress)
    if need is not None and together * need > there:
        progress.say(
            f"Warning: {together} cells of about {need:.1f} GiB share {there:.1f} GiB of a GPU; one that runs out of "
            f"it fails alone. {max(1, int(there / need))} at once would fit."
        )


def cell_gib(grid: Sequence[Cell], progress: Progress) -> float | None:
    """What the training of the first cell needs at its peak, in GiB; None where that cannot be told beforehand."""
    from topiclora_cli.stages.plan import estimate_needs

    recipe = next((cell.recipe for cell in grid if cell.trained), None)
    if recipe is None:
        return None
    try:
        return estimate_needs(recipe, progress, steps=False).memory.total / GIB
    except TopicLoraError:
        return None


def free_gib() -> float | None:
    """Main memory that programs can have without swapping, in GiB; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] * 1024 / GIB if found else None


def gpu_gib() -> list[float]:
    """The memory of each GPU in GiB, by the driver's own tool: asking torch would take some of it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run(
        [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=False
    )
    return [float(line) / 1024 for line in done.stdout.split() if line.isdigit()]
