"""A foreign checkpoint as its files have it: tensors by name, and a configuration. Nothing in a file is ever run."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.models.hub import HUB_ERRORS
from topiclora_cli.runs.files import read_json

WEIGHTS = (
    *("adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "pytorch_model.bin"),
    *("final_checkpoint.pt", "checkpoint/final_checkpoint.pt"),
)
CONFIGS = ("adapter_config.json", "config.json")
_AGAIN = "Fetch the file again."


@dataclass(frozen=True)
class Checkpoint:
    """What a publisher's saver has left: the file of the weights, its tensors, the settings beside it if any, and what
    is to be told of the file."""

    file: Path
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def setting(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """A setting that has to be there, of that type, and above 0 if a number; raises TopicLoraError naming it."""
        value = self.settings.get(key)
        nothing = isinstance(value, int | float) and not value > 0
        if not isinstance(value, kind) or isinstance(value, bool) or nothing:
            said = "is missing" if value is None else f"is {value!r}"
            raise TopicLoraError(
                f"{key} {said} in the configuration of {self.file}.",
                "Put the configuration that it was saved with beside it.",
            )
        return value

    @property
    def base(self) -> str | None:
        """What the checkpoint calls its base model."""
        names = (self.settings.get(key) for key in ("base_model_name_or_path", "_name_or_path"))
        return next((name for name in names if name and isinstance(name, str)), None)


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint's folder, or the file of its weights, with the configuration that lies beside it.

    Raises TopicLoraError, naming the file, where there is none, or it is cut off, damaged, or pickled with code.
    """
    file = _weights(path)
    tensors, pickled = _read(file)
    odd = next((key for key, tensor in tensors.items() if not _is_plain(tensor)), None)
    if odd is not None:
        kind = f"{tensors[odd].dtype}, {tensors[odd].layout}, {tensors[odd].device}"
        raise TopicLoraError(f"{file}: {odd} is no plain tensor of weights ({kind}).", "Give an adapter's file.")
    damaged = next((key for key, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if damaged is not None:
        raise TopicLoraError(f"{file}: {damaged} holds NaN or infinity.", _AGAIN)
    folders = (file.parent, file.parent.parent) if file.parent.name == "checkpoint" else (file.parent,)
    configs = [folder / name for folder in folders for name in CONFIGS if (folder / name).is_file()]
    settings = read_json(configs[0], hint="Fetch it again.") if configs else {}
    if not isinstance(settings, Mapping):
        raise TopicLoraError(f"{configs[0]} is no mapping of settings.", "Fetch it again.")
    disguised = pickled and file.suffix == ".safetensors"
    notes = (f"{file} is a pickle of torch's in spite of its name; its tensors were read, and nothing run.",)
    return Checkpoint(file, tensors, settings, notes if disguised else ())


def _weights(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        path = _from_hub(path)
    found = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if found is None:
        raise TopicLoraError(
            f"{path} holds no weights: none of {', '.join(WEIGHTS[:5])}.", "Give the folder, or the file itself."
        )
    return found


def _from_hub(path: Path) -> Path:
    """The folder of a hub's repository in its cache on this machine, downloaded first."""
    name = path.as_posix()
    missing = TopicLoraError(f"There is no checkpoint at {path}.", "Give its folder, its file of weights, or a hub id.")
    if path.is_absolute() or len(path.parts) != 2 or name.startswith("."):
        raise missing
    try:
        return Path(snapshot_download(name, allow_patterns=[*WEIGHTS, *CONFIGS]))
    except HUB_ERRORS as error:
        reason = first_line(error)
        raise TopicLoraError(f"{missing.message} As a hub id: {reason}", missing.hint) from None


def _read(file: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors by name, and whether they were pickled."""
    with file.open("rb") as opened:
        head = opened.read(9)
    # Safetensors begins with the length of its header, whose bytes may be any, and the header with a bracket.
    pickled = head.startswith((b"PK", b"\x80")) and head[8:] != b"{"
    loaded = _unpickled(file) if pickled else _safe(file)
    if not isinstance(loaded, Mapping) or not loaded:
        raise TopicLoraError(
            f"{file} holds a {type(loaded).__name__} and no tensors by name.", "Give an adapter's file."
        )
    odd = next((key for key, value in loaded.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise TopicLoraError(
            f"{file}: {odd} is a {type(loaded[odd]).__name__} and no tensor.",
            "Give an adapter's file of weights alone.",
        )
    return {str(key): value.detach() for key, value in loaded.items()}, pickled


def _is_plain(tensor: Tensor) -> bool:
    """Whether it holds real numbers, and all of them: neither sparse, quantised nor without data."""
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta


def _safe(file: Path) -> Any:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise TopicLoraError(f"{file} is cut off or no file of tensors ({first_line(error)}).", _AGAIN) from None


def _unpickled(file: Path) -> Any:
    try:
        with file.open("rb") as opened:  # by its name torch would take one for safetensors
            return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is not None:
            raise TopicLoraError(
                f"{file} is pickled with code ({code.group(1)}), which is never run here.",
                "Ask its publisher for tensors alone, in safetensors.",
            ) from None
        # torch's own words would have one load it with whatever code it brings.
        raise TopicLoraError(f"{file} is damaged, or holds other things than tensors.", _AGAIN) from None
    except Exception as error:  # a damaged pickle fails wherever the unpickler happens to be
        reason = first_line(error) if str(error) else "it ends early"
        raise TopicLoraError(f"{file} is cut off or damaged ({reason}).", _AGAIN) from None
