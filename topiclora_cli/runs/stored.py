"""Tensors that take long to make, kept in a file: read where it is whole, else made again and written in one step."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import replacing


def stored_tensors(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in the file `path`; those of `make`, written there, if it is missing or damaged."""
    # A cache is rebuilt, not repaired.
    with suppress(OSError, SafetensorError):
        return load_file(path)
    tensors = make()
    # A full or read-only disk costs time at the next run, not this run.
    with suppress(OSError, SafetensorError, TopicLoraError), replacing(path) as temporary:
        save_file(tensors, temporary)
    return tensors
