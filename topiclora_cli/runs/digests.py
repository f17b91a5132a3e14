"""Files by content, read once: the digest of a large one is remembered until the file changes."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.cache import cache_dir
from topiclora_cli.runs.files import read_json, sha256_file, write_json

_LARGE = 2**24  # bytes; smaller files are read in no time


def folder_digests(folder: Path, endings: Sequence[str]) -> dict[str, str]:
    """The sha256 of the files in a folder that have one of these endings, by name."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(tuple(endings)))
    return {path.name: file_digest(path) for path in found}


def file_digest(path: Path) -> str:
    """A file's sha256; a large file's is remembered in the cache by its size and time."""
    stat = path.stat()
    if stat.st_size < _LARGE:
        return sha256_file(path)
    state = [stat.st_size, stat.st_mtime_ns]
    note = cache_dir() / "digests" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
    with suppress(TopicLoraError, KeyError, TypeError, OSError):
        known = read_json(note, hint="")
        if known["state"] == state:
            return str(known["sha256"])
    digest = sha256_file(path)
    with suppress(TopicLoraError, OSError):  # a cache that cannot be written costs time
        write_json(note, {"state": state, "sha256": digest})
    return digest
