"""A folder of copies `ORG/NAME` filled from a hub with the data sets of tasks, for machines without a network."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.data_needed import DataNeeded, data_needed
from topiclora_cli.evaluation.harness import EvalRequest, make_task_manager, reason
from topiclora_cli.evaluation.local_data import FETCHED, MOVED, is_hub_name

CONVERTED = "refs/convert/parquet"  # where the hub keeps the rows of a data set that a script makes


def prefetch(request: EvalRequest, say: Callable[[str], None]) -> list[Path]:
    """Fetch every hub data set of the requested tasks that is not at hand into the request's `datasets_dir`.

    Returns the folders of the copies. What a fetch that was cut off has got is kept, and nothing of it is read before
    it is whole. Raises TopicLoraError where no folder is named, a task is unknown, or the hub cannot be reached.
    """
    if request.datasets_dir is None:
        raise TopicLoraError("--prefetch fills a folder, and none is named.", "Add --datasets-dir DIR.")
    root = Path(request.datasets_dir)
    root.mkdir(parents=True, exist_ok=True)
    manager = make_task_manager(request)
    names = manager.match_tasks(list(request.tasks))
    wanted: dict[str, list[DataNeeded]] = {}
    for each in (each for name in names for each in data_needed(manager, name, root)):
        if is_hub_name(each.name) or each.place.is_relative_to(root):
            wanted.setdefault(MOVED.get(each.name, each.name), []).append(each)
    copies = []
    for name, parts in wanted.items():
        missing = [part for part in parts if not part.at_hand]
        if missing:
            say(f"Fetching {name} ...")
            copies.append(_fetch(name, missing, root))
        else:
            say(f"{name} is at hand.")
            copies.append(parts[0].place)
    return copies


def _fetch(name: str, parts: Sequence[DataNeeded], root: Path) -> Path:
    folder = root / name
    if folder.exists() and not (folder / FETCHED).exists():
        raise TopicLoraError(
            f"{folder} lacks {parts[0].config or 'what is needed'}, and it is no copy that was fetched from a hub.",
            "Add what is missing, or move it away so that it is fetched.",
        )
    half = folder.with_name(f".{folder.name}.half")  # until it is whole
    try:
        revision = next((part.revision for part in parts if part.revision), None)
        files = huggingface_hub.HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        if f"{folder.name}.py" in files:
            revision = CONVERTED
            files = huggingface_hub.HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        patterns = _patterns([part.config for part in parts], files)
        huggingface_hub.snapshot_download(
            name, repo_type="dataset", revision=revision, local_dir=half, allow_patterns=patterns
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise TopicLoraError(
            f"The data set {name} cannot be fetched: {reason(error)}",
            "Where there is a network, run this again: what has been fetched is kept. Then take the folder along.",
        ) from error
    if folder.exists() and patterns is not None:
        for config in {str(part.config) for part in parts}:
            (half / config).rename(folder / config)
        shutil.rmtree(half)
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    return half.rename(folder)


def _patterns(configs: Sequence[str | None], files: Sequence[str]) -> list[str] | None:
    """What to fetch: of a data set with a folder for each configuration these folders, else all of it."""
    if all(config and any(file.startswith(f"{config}/") for file in files) for config in configs):
        return ["README.md", *sorted({f"{config}/*" for config in configs})]
    return None
