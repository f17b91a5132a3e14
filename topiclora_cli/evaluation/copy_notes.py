"""What is to be known of scores whose questions came from a copy of a data set: how it differs from the hub's."""

from pathlib import Path

from topiclora_cli.evaluation.loading import Tasks
from topiclora_cli.evaluation.local_data import FETCHED, LocalSplits

_LONGEST = 400  # characters of what a README says
_NAMED = 3  # tasks of one copy that are named


def copy_notes(loaded: Tasks) -> list[str]:
    """A line for every copy that loaded tasks read and that was not fetched from a hub as it is.

    It quotes what stands before the first heading of the copy's README, and names splits that the copy lacks.
    """
    of_folder: dict[Path, list[str]] = {}
    absent: dict[Path, dict[str, None]] = {}
    for name, task in loaded.tasks.items():
        splits = getattr(task, "dataset", None)
        if isinstance(splits, LocalSplits):
            of_folder.setdefault(splits.folder, []).append(name)
            absent.setdefault(splits.folder, {}).update(dict.fromkeys(splits.absent))
    notes = []
    for folder, names in of_folder.items():
        said = _said(folder)
        if said is None and not absent[folder]:
            continue
        lacking = f" It has no split {', '.join(map(repr, absent[folder]))}." if absent[folder] else ""
        copy = f"{folder.parent.name}/{folder.name}"
        notes.append(f"{_listed(names)} was asked from a copy of {copy}. {said or ''}{lacking}".replace("  ", " "))
    return notes


def _said(folder: Path) -> str | None:
    """None for a copy that is the hub's own."""
    if (folder / FETCHED).exists():
        return None
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    if text.startswith("---"):
        text = text[3:].partition("\n---")[2]
    words = " ".join(text.partition("\n#")[0].split()) if not text.lstrip().startswith("#") else ""
    if not words:
        return "It does not say where it is from."
    cut = words if len(words) <= _LONGEST else f"{words[:_LONGEST].rstrip()} ..."
    return cut if cut.endswith((".", "!", "?")) else f"{cut}."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
