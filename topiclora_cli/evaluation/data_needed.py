"""Which data a task asks its questions of, and whether it is at hand, told without loading any."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants

from topiclora_cli.evaluation.local_data import READERS, folder_of, is_hub_name


@dataclass(frozen=True)
class DataNeeded:
    """A data set by its hub name, or a file; config and revision: the hub's, None for the usual one.

    place: where it lies, or was looked for. at_hand: whether it lies there.
    """

    name: str
    config: str | None
    revision: str | None
    place: Path
    at_hand: bool


def data_needed(manager: Any, name: str, datasets_dir: str | Path | None = None) -> list[DataNeeded]:
    """What the tasks that lm-eval's `manager` knows by that name read, each once, in their order.

    Looked for below `datasets_dir`, without one in the caches of datasets and huggingface_hub. Nothing for tasks whose
    questions are made by a function, or loaded by a class of their own.
    """
    found = (data_of(settings, datasets_dir) for settings in _settings(manager, name))
    return list(dict.fromkeys(each for each in found if each is not None))


def data_of(settings: Mapping[str, Any], datasets_dir: str | Path | None = None) -> DataNeeded | None:
    """What a task of these settings, as its file has them, reads; None where its questions are made by a function."""
    path, config = settings.get("dataset_path"), settings.get("dataset_name")
    if settings.get("custom_dataset") or not isinstance(path, str) or not path:
        return None
    options = settings.get("dataset_kwargs") or {}
    if not is_hub_name(path):
        files = [Path(path)] if path not in READERS else [Path(file) for file in _files(options.get("data_files"))]
        missing = [file for file in files if not file.exists() and "://" not in str(file)]
        place = (missing or files or [Path(path)])[0]
        return DataNeeded(str(place), config, None, place, at_hand=not missing)
    if datasets_dir is None:
        place = _cached(path)
        return DataNeeded(path, config, options.get("revision"), place, place.is_dir())
    place = folder_of(path, datasets_dir)
    return DataNeeded(path, config, options.get("revision"), place, _holds(place, config))


def _settings(manager: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The settings of every task below a name, of a group or tag those of its members."""
    entry = manager.task_index.get(name)
    if entry is None:
        return
    settings, tags = entry.cfg or {}, sorted(entry.tags or ())
    members = settings.get("task") if isinstance(settings.get("task"), list) else []
    if members or not settings:
        for member in members or tags:
            if isinstance(member, str):
                yield from _settings(manager, member) if member != name else ()
                continue
            inner = str(member.get("task") if isinstance(member.get("task"), str) else member.get("group"))
            own = {key: value for key, value in member.items() if key.startswith("dataset_")}
            yield from ({**each, **own} for each in _settings(manager, inner))
        return
    yield settings


def _holds(folder: Path, config: str | None) -> bool:
    """Whether a copy has that configuration, as far as its README and its folders tell."""
    if not folder.is_dir():
        return False
    if config is None or (folder / config).is_dir():
        return True
    readme = folder / "README.md"
    return readme.is_file() and config in datasets.get_dataset_config_names(str(folder))


def _cached(name: str) -> Path:
    owner, _, short = name.rpartition("/")
    # datasets keeps what it has read as OWNER___name, huggingface_hub what it has fetched as datasets--OWNER--NAME.
    made = Path(datasets.config.HF_DATASETS_CACHE) / "___".join(filter(None, (owner, short.lower())))
    fetched = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return made if made.is_dir() else fetched


def _files(value: Any) -> Iterator[str]:
    """The names in what load_dataset takes for data_files."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _files(each)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        for each in value:
            yield from _files(each)
