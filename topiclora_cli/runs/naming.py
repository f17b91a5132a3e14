"""Names for what a stage makes more than once in a run, so that a second evaluation or export keeps the first.

Every outcome is a folder of its own that says in `request.json` what was asked for. The same request again refreshes
its folder, another gets a folder beside it.
"""

import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import read_json, write_json

REQUEST, SUMMARY, GAP = "request.json", "summary.json", "gap.json"  # of both, of an evaluation, of an export
REPORT = "report.json"  # of a topic graph
ROUTING, PROBES = "routing.json", "probes.json"  # of an evaluation, where they were asked for
MODELS = "models.json"  # of an evaluation of several models
BY_QUESTION = "questions.json"  # of an evaluation, what each question adds to each metric
_LONGEST = 60  # characters of a derived name; file systems take 255 bytes, and people far fewer


def named_folder(parent: Path, name: str | None, *, default: str, request: Mapping[str, Any]) -> Path:
    """The folder under `parent` for the outcome of `request`, whose `request.json` is written.

    It is called `name`; without one `default`, made fit for a file name, with a number where that is another request's.
    Raises TopicLoraError where `name` is no name of a folder, or belongs to another request.
    """
    if name is not None:
        if not re.fullmatch(r"[\w.,=+-]+", name) or set(name) == {"."}:
            raise TopicLoraError(f"--name {name!r} is no name of a folder.", "Use letters, digits and . , = + - _")
        if _held_by_another(parent / name, request):
            raise TopicLoraError(
                f"{parent / name} holds the outcome of another request.", "Choose another --name, or leave it out."
            )
        folder = parent / name
    else:
        stem = re.sub(r"[^\w.,=+-]+", "-", default)[:_LONGEST].strip("-.,") or "result"
        numbered = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        folder = next(parent / each for each in numbered if not _held_by_another(parent / each, request))
    write_json(folder / REQUEST, request)
    return folder


def named_folders(parent: Path, outcome: str) -> list[Path]:
    """Folders under `parent` that hold a finished `outcome` (a file's name), the latest last."""
    return sorted((path.parent for path in parent.glob(f"*/{outcome}")), key=lambda f: (f / outcome).stat().st_mtime_ns)


def finished(parent: Path, outcome: str, request: Mapping[str, Any]) -> Path | None:
    """The `outcome` of this very request under `parent`, None where it was not made yet."""
    folders = [folder for folder in named_folders(parent, outcome) if not _held_by_another(folder, request)]
    return folders[-1] / outcome if folders else None


def _held_by_another(folder: Path, request: Mapping[str, Any]) -> bool:
    if not folder.exists():
        return False
    if not (folder / REQUEST).is_file():
        return True
    return bool(read_json(folder / REQUEST, hint=f"Delete {folder}.") != request)
