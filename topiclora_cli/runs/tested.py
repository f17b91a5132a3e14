"""The newest releases that the tests have passed on, and a word for who runs newer ones.

Other libraries hand adapters what they need under names that change between releases; a wrong name need not raise.
pyproject.toml bounds what is known not to work; this list is what is known to work.
"""

from collections.abc import Iterator, Mapping
from importlib import metadata

from packaging.version import InvalidVersion, Version

NEWEST = {
    "torch": "2.13",
    "transformers": "5.24",
    "peft": "0.21",
    "accelerate": "1.15",
    "datasets": "5.2",
    "lm-eval": "0.4.13",
    "torch-geometric": "2.8",
}


def newer_than_tested(newest: Mapping[str, str] = NEWEST) -> list[str]:
    """Installed packages newer than the release named for them, as `name version (tested up to release)`."""
    return list(_newer(newest))


def _newer(newest: Mapping[str, str]) -> Iterator[str]:
    for name, release in newest.items():
        try:
            text = metadata.version(name)
            # Patches of a tested release, and local builds of it, count as tested.
            installed = Version(text).release[: release.count(".") + 1]
        except (metadata.PackageNotFoundError, InvalidVersion):
            continue
        if installed > Version(release).release:
            yield f"{name} {text} (tested up to {release})"
