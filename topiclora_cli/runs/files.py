"""Writing so that a killed process leaves either the old file or the new one, never half of one."""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace `path` with `text` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace `path` with `value` as indented JSON in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: str | os.PathLike[str], heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Replace `path` with rows of as many values as there are heads, as CSV in one step; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: str | os.PathLike[str], *, hint: str) -> Any:
    """Parse a JSON file; raises TopicLoraError, carrying `hint`, where it is missing or cut short."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TopicLoraError(f"{path} does not exist.", hint) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TopicLoraError(f"{path} is not valid JSON ({error}).", hint) from None


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` (file or folder) that takes its place if the block succeeds.

    Nothing is left behind when the block raises.
    """
    target = Path(path)
    make_folder(target.parent)
    # Same folder, because os.replace is atomic only within one file system.
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    temporary, old = scratch / target.name, scratch / f"{target.name}.old"
    try:
        yield temporary
        if temporary.is_dir() and target.is_dir():
            os.replace(target, old)
        os.replace(temporary, target)
    finally:
        # Two renames are not one: where the second fails, the old folder goes back, or else stays in the scratch.
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(scratch, ignore_errors=True)


def make_folder(path: Path, *, hint: str = "Choose another place.") -> Path:
    """Make a folder and those above it; raises TopicLoraError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        file = next((place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None)
        reason = f"{file} is a file" if file else (error.strerror or str(error))
        raise TopicLoraError(f"The folder {path} cannot be made: {reason}.", hint) from None
    return path


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one it came from, is a full disk; safetensors reports that in words only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
