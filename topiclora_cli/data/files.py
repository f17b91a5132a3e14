"""Which files a source's name stands for: one, or all that a pattern matches; and of what kind they are."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from topiclora_cli.data.tables import KINDS, PACKED
from topiclora_cli.errors import TopicLoraError

# What else a file of somebody's data may be called, so that it is not looked for on a hub.
_OTHER_FILES = (
    *(".txt", ".text", ".tsv", ".tab", ".xlsx", ".xls", ".xml", ".html", ".md", ".pdf", ".log", ".py", ".ipynb"),
    *(".yaml", ".yml", ".toml", ".arrow", ".feather", ".pkl", ".pickle", ".npy", ".pt", ".db", ".sqlite", ".ndjson"),
    *(".zip", ".tar", ".tgz", ".xz", ".7z", ".rar", ".lz4"),
)


def kind_of_file(name: str) -> str | None:
    """One of KINDS' values for a file's name, packed or not; None for what no table is read from."""
    path = Path(name)
    if path.suffix not in PACKED:
        return KINDS.get(path.suffix)
    kind = KINDS.get(Path(path.stem).suffix)
    return None if kind == "parquet" else kind


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern of files, as a shell has them: `chats/*.jsonl`, `**` for folders of any depth."""
    return has_magic(name) and "://" not in name and not Path(name).exists()


def looks_local(name: str) -> bool:
    """Whether a name can only be meant for a file or folder on this machine, be it there or not."""
    path = Path(name)
    return "://" not in name and (
        path.is_absolute()
        or name.startswith((".", "~"))
        or len(path.parts) > 2  # a hub's are OWNER/NAME at most
        or kind_of_file(name) is not None
        or path.suffix.lower() in (*_OTHER_FILES, *PACKED)
    )


def local_files(name: str) -> list[Path]:
    """The file of this name, or, sorted, all files that a pattern matches."""
    if is_pattern(name):
        return sorted(path for path in map(Path, glob(name, recursive=True)) if path.is_file())
    return [Path(name)] if Path(name).is_file() else []


def one_kind(files: Sequence[str], key: str) -> str:
    """The kind of all these files; raises TopicLoraError for one that cannot be read, and for several kinds.

    `key` is the section's place in the recipe.
    """
    kinds: dict[str, str] = {}
    for name in files:
        kind = kind_of_file(name)
        if kind is None:
            suffix = "".join(Path(name).suffixes[-2:]) if Path(name).suffix in PACKED else Path(name).suffix
            raise TopicLoraError(
                f"{name}: cannot read {suffix!r} files.",
                f"Use one of {sorted(KINDS)}; text may be packed as one of {sorted(PACKED)}.",
            )
        kinds.setdefault(kind, name)
    if len(kinds) > 1:
        one, other, *_ = kinds.values()
        raise TopicLoraError(
            f"{key}.source matches files of several kinds: {one} and {other}.", "Give each kind a source of its own."
        )
    return next(iter(kinds))


def file_states(name: str) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change in nanoseconds of a source's files; none of one that is not local."""
    files = local_files(name) or sorted(file for file in Path(name).rglob("*") if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
