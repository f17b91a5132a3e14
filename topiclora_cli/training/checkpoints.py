"""Checkpoints that can be trusted: sealed with hashes once complete, skipped when the seal is missing or broken."""

from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.files import read_json, sha256_file, write_json

SEAL = "sealed.json"


def seal(checkpoint: Path) -> None:
    """Record the hash of every file of a finished checkpoint."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    write_json(checkpoint / SEAL, {str(path.relative_to(checkpoint)): sha256_file(path) for path in files})


def is_sound(checkpoint: Path) -> bool:
    """Whether every sealed file is present and unchanged."""
    try:
        hashes = read_json(checkpoint / SEAL, hint="")
    except TopicLoraError:
        return False
    return bool(hashes) and all(
        (checkpoint / name).is_file() and sha256_file(checkpoint / name) == digest for name, digest in hashes.items()
    )


def latest_sound(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest trustworthy checkpoint under `folder`, and the newer ones that were passed over."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    passed_over: list[Path] = []
    for path in sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        if is_sound(path):
            return path, passed_over
        passed_over.append(path)
    return None, passed_over
