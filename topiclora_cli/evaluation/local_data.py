"""Data sets of a hub read from copies on disk, `DIR/ORG/NAME`, wherever a task of lm-eval loads one by its hub name."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from pyarrow import ArrowException

from topiclora_cli.errors import TopicLoraError

# What task files call a data set that a script makes -> where the same rows and columns lie as plain files.
MOVED = {
    **{"hails/mmlu_no_train": "cais/mmlu", "lukaemon/mmlu": "cais/mmlu", "hendrycks_test": "cais/mmlu"},
    **{"lukaemon/bbh": "SaylorTwift/bbh", "maveriq/bigbenchhard": "SaylorTwift/bbh"},
    **{"ybisk/piqa": "baber/piqa", "social_i_qa": "lighteval/siqa", "allenai/social_i_qa": "lighteval/siqa"},
}
FETCHED = ".cache/huggingface"  # where huggingface_hub notes, in a folder that it has filled, what it fetched
READERS = frozenset({"json", "csv", "parquet", "text", "arrow", "xml", "imagefolder", "audiofolder", "webdataset"})
_HUB_ONLY = ("revision", "token", "trust_remote_code", "use_auth_token", "download_mode", "verification_mode")
_stock = datasets.load_dataset


class LocalSplits(datasets.DatasetDict):  # type: ignore[misc]  # datasets has no types
    """The splits of a copy; one that it lacks is empty, and noted in `absent`: a task asks for more than it needs."""

    def __init__(self, splits: Any, folder: Path) -> None:
        super().__init__(splits)
        self.folder, self.absent = folder, list[str]()

    def __missing__(self, split: str) -> Any:
        self.absent += [split] if split not in self.absent else []
        return next(iter(self.values())).select([])

    def lacks(self, split: str, what_for: str) -> TopicLoraError:
        """What to say where that split is needed."""
        return TopicLoraError(
            f"The data set is not at hand: {self.folder} has no split {split!r}, {what_for}.",
            f"It has: {', '.join(self)}.",
        )


@dataclass
class _Copies:
    root: Path
    opened: list[LocalSplits] = field(default_factory=list)


_copies: ContextVar[_Copies | None] = ContextVar("copies", default=None)


@contextmanager
def local_datasets(root: str | Path | None) -> Iterator[None]:
    """In the block datasets.load_dataset reads hub names below `root`; without one nothing changes.

    Raises TopicLoraError where `root` is no folder, and, with the folder that it wanted, for what is not there: from
    load_dataset for a data set, from the block for a split of which a question is to be taken.
    """
    if root is None:
        yield
        return
    if not Path(root).is_dir():
        raise TopicLoraError(f"eval.datasets_dir {str(root)!r} is not a folder.", "Name a folder of ORG/NAME.")
    copies = _Copies(Path(root))
    before, token = datasets.load_dataset, _copies.set(copies)
    # Task files that import the function itself keep this one, which is the stock function outside of a block.
    datasets.load_dataset = _load
    try:
        yield
    except (LookupError, ValueError) as error:
        lacking = [splits for splits in copies.opened if splits.absent]
        if isinstance(error, TopicLoraError) or not lacking:
            raise
        raise lacking[-1].lacks(lacking[-1].absent[-1], "which the task reads") from error
    finally:
        datasets.load_dataset = before
        _copies.reset(token)


def refuse_absent_shots(name: str, task: Any) -> None:
    """Raises TopicLoraError where the shots of a loaded task come of a split that its copy lacks."""
    splits, shots = task.dataset, task.get_config("num_fewshot")
    if not shots or not isinstance(splits, LocalSplits) or (task.config.fewshot_config and task.fewshot_cfg.samples):
        return
    split = task.fewshot_cfg.split or task.config.training_split or task.config.validation_split
    if split in splits.absent:
        raise splits.lacks(split, f"of which the {shots} shots of {name!r} are drawn (--num-fewshot 0 needs none)")


def is_hub_name(name: object) -> bool:
    """Whether load_dataset would look for this on a hub: no reader of files, nothing that lies here."""
    return isinstance(name, str) and bool(name) and name not in READERS and not Path(name).exists()


def folder_of(name: str, root: str | Path) -> Path:
    """Where below `root` a hub name's copy lies, or would be looked for; an owner may be left out of either."""
    names = [name, *([MOVED[name]] if name in MOVED else [])]
    for each in names:
        if (Path(root) / each).is_dir():
            return Path(root) / each
    found = [] if "/" in name else [path for path in sorted(Path(root).glob(f"*/{name}")) if path.is_dir()]
    return found[0] if len(found) == 1 else Path(root) / names[-1]


def data_folder(folder: Path, config: str | None) -> tuple[Path, str | None]:
    """The folder to read of a copy, and the name of its configuration there, None for the folder's only one.

    Raises TopicLoraError, with the folder that it wanted, for a configuration that the copy does not have.
    """
    below = folder / (config or "default")
    if _script(folder) or _saved(below):  # a script is never run: its rows are looked for beside it
        if below.is_dir():
            return below, None
    elif _saved(folder) and config is None:
        return folder, None
    else:
        known = _configs(folder)
        if config in known or (config is None and known):
            return folder, config
        if below.is_dir():
            return below, None
    has = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    raise not_at_hand(below, f"Of it there are: {', '.join(has[:12])}." if has else "")


def not_at_hand(folder: Path, there: str = "") -> TopicLoraError:
    """What to say of data that is not where it was looked for."""
    fill = "Copy it there, or let `topiclora eval --prefetch` do so where there is a network."
    return TopicLoraError(f"The data set is not at hand: {folder} is not there.", f"{there} {fill}".strip())


def _load(path: str, name: str | None = None, *args: Any, **settings: Any) -> Any:
    copies = _copies.get()
    if copies is None or not is_hub_name(path):
        return _stock(path, name, *args, **settings)
    copy = folder_of(path, copies.root)
    if not copy.is_dir():
        raise not_at_hand(copy)
    kept = {key: value for key, value in settings.items() if key not in _HUB_ONLY}
    if kept.get("data_files") or kept.get("data_dir"):
        folder, config = copy, name
    else:
        folder, config = data_folder(copy, name)
    try:
        if _saved(folder):
            found = datasets.load_from_disk(str(folder))
            found = found[kept["split"]] if kept.get("split") and isinstance(found, datasets.DatasetDict) else found
        else:
            found = _stock(str(folder), config, *args, **kept)
    except (ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        said = str(error.__cause__ or error).strip().partition("\n")[0]
        raise TopicLoraError(f"The data set in {folder} cannot be read: {said}", "Copy it there again.") from error
    if isinstance(found, datasets.DatasetDict):
        found = LocalSplits(found, copy)
        copies.opened.append(found)
    return found


def _configs(folder: Path) -> list[str]:
    try:
        return list(datasets.get_dataset_config_names(str(folder)))
    except FileNotFoundError:
        return []  # there are folders alone


def _script(folder: Path) -> bool:
    return (folder / f"{folder.name}.py").is_file()


def _saved(folder: Path) -> bool:
    """Whether Dataset.save_to_disk, or that of a DatasetDict, wrote it."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
