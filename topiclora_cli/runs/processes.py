"""Several processes on one run, as torchrun or accelerate start them: the first does alone what is to be done once.

Nothing here loads torch unless there are several.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from topiclora_cli.errors import TopicLoraError

T = TypeVar("T")

# Building a graph or embedding every prompt on one process outlasts torch's own patience with the others.
PATIENCE = timedelta(hours=6)


def process_index() -> int:
    """This process's number among those started together."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def in_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, given to all; the others only wait for it.

    A TopicLoraError of the first is raised there; the others leave with its exit code and say nothing.
    """
    if process_count() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    _join()
    result: list[T | None] = [None]
    error: TopicLoraError | None = None
    if process_index() == 0:
        try:
            result = [make()]
        except TopicLoraError as raised:
            error = raised
    code, *shared = broadcast_object_list([error.exit_code if error else 0, *result])
    if error is not None:
        raise error
    if code:
        raise SystemExit(code)
    made: T = shared[0]
    return made


def wait_for_all() -> None:
    """Go on once every process has come this far."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def leave() -> None:
    """Take this process out of the group, as torch wants before it ends."""
    if process_count() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _join() -> None:
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
