"""What a worker's place on this machine is: its share of the cores, its GPU, and nothing of a process group."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import topiclora_cli
from topiclora_cli.errors import TopicLoraError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS")
_OF_A_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_absent_gpus(gpus: Sequence[int]) -> None:
    """Raise TopicLoraError for the number of a GPU that this process does not see: a worker would do without one."""
    if not gpus:
        return
    import torch

    there = torch.cuda.device_count()  # opens none of them
    if absent := [number for number in gpus if number >= there]:
        seen = f"GPUs 0 to {there - 1} are" if there > 1 else "GPU 0 alone is" if there else "no GPU is"
        fix = "Leave --gpus out to use the CPU." if not there else "They are numbered as CUDA_VISIBLE_DEVICES has them."
        raise TopicLoraError(f"--gpus: there is no GPU {absent[0]}; {seen} visible to torch {torch.__version__}.", fix)


def worker_environment(slot: int, jobs: int, gpus: Sequence[int], given: Mapping[str, str]) -> dict[str, str]:
    """The environment of one of `jobs` workers, made of what is `given` to the parent.

    It has its share of the cores in threads, at least one, and no more than was given; of the GPUs, which are numbered
    among those that the parent sees, it sees one, in turn.
    """
    environment = {name: value for name, value in given.items() if name not in _OF_A_GROUP}
    share = max(1, cores() // jobs)
    for name in _THREADS:
        said = given.get(name, "")
        environment[name] = str(min(share, int(said)) if said.isdigit() and int(said) > 0 else share)
    if gpus:
        number = gpus[slot % len(gpus)]
        seen = [each.strip() for each in given.get(_VISIBLE, "").split(",") if each.strip()]
        environment[_VISIBLE] = seen[number] if number < len(seen) else str(number)
    # The very code that runs here, from wherever it was started.
    here = str(Path(topiclora_cli.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(each for each in (here, given.get("PYTHONPATH")) if each)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
