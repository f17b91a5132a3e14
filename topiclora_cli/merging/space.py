"""Room on the disk for what is about to be written."""

import shutil
from pathlib import Path

from topiclora_cli.errors import TopicLoraError

_SPARE = 1.05  # what headers, tokenizers and cards need beside the tensors


def check_space(folder: Path, needed: int) -> None:
    """Raises TopicLoraError where the disk that `folder` lies on, or is to lie on, has not so many bytes left."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed * _SPARE:
        raise TopicLoraError(
            f"{folder} needs about {_gigabytes(needed)}, and {_gigabytes(free)} are free on its disk.",
            "Free some, write fewer formats, or choose another --out.",
        )


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB"
