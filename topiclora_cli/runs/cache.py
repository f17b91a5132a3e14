"""Derived files: models that are made of others, kept as ordinary transformers folders and made again where damaged."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from topiclora_cli.runs.files import make_folder, read_json


def cache_dir() -> Path:
    """Where derived files live: `$TOPICLORA_CACHE`, else `$XDG_CACHE_HOME/topiclora`, else `~/.cache/topiclora`."""
    if explicit := os.environ.get("TOPICLORA_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "topiclora"


def cached_model(name: str, make: Callable[[Path], object]) -> str:
    """The cached model folder of a name, filled by `make`, which writes it in one step, where it is not whole."""
    folder = cache_dir() / "models" / name
    make_folder(folder.parent, hint="Set TOPICLORA_CACHE to a folder that can be written.")
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder):
            # Somebody has cleaned up in there.
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
    return str(folder)


def _is_whole(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    weights = {"model.safetensors"}
    if index.is_file():
        weights = set(read_json(index, hint=f"Delete {folder}.")["weight_map"].values())
    return all((folder / name).is_file() for name in ("config.json", "tokenizer_config.json", *weights))
