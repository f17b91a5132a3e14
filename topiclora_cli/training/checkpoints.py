"""Checkpoints that can be trusted: sealed with hashes once complete, skipped when the seal is missing or broken."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.adapter import FIELDS
from topiclora_cli.recipe.spelling import respelt_keys
from topiclora_cli.runs.files import read_json, sha256_file, write_json

SEAL, SETTINGS = "sealed.json", "settings.json"
EXAMPLES = "examples"  # the key of what was trained on
# Keys that change how a run is carried out or reported, and none of its numbers; a source's name is but its label.
_INDIFFERENT: dict[str, Any] = {
    "train": {
        "logging_steps",
        "save_steps",
        "save_total_limit",
        "eval_steps",
        "metric_for_best",
        "load_best",
        "early_stopping_patience",
        "report_to",
        "gradient_checkpointing",
        "packing",
        "torch_compile",
    },
    "graph": {"hold_out", "compare_seeds"},
    "data": {"name": True, "sources": {"__all__": {"name"}}},
}
_CUT = ("batch_size", "gradient_accumulation")


def decisive_settings(recipe: Recipe, processes: int) -> dict[str, Any]:
    """All of a recipe that the course of its training depends on, by dotted key.

    How a step's examples are cut into processes and micro-batches is left out, their number is not.
    """
    apart = dict.fromkeys(("name", "eval", "merge", "ablation"), True)
    values = recipe.model_dump(mode="json", exclude={**apart, **_INDIFFERENT})
    if recipe.data.decontaminate:
        values["eval"] = recipe.eval.model_dump(mode="json", include={"tasks", "include_path"})
    cut = " x ".join([*(f"train.{key}" for key in _CUT), "processes"])
    size = math.prod([*(values["train"].pop(key) for key in _CUT), processes])
    return {**_flat(values), cut: size}


def refuse_other_settings(checkpoint: Path, settings: dict[str, Any]) -> None:
    """Raises TopicLoraError, naming the key, where a checkpoint was written under other settings."""
    before = read_json(checkpoint / SETTINGS, hint="") if (checkpoint / SETTINGS).is_file() else settings
    before = _of_this_kind(respelt_keys(before), settings)
    trained_on = before.pop(EXAMPLES, None)  # which earlier versions did not note
    known = _recipe_keys(before)
    sections = {key.partition(".")[0] for key in known}
    if new := sorted(key for key in _recipe_keys(settings) - known if key.partition(".")[0] in sections):
        raise TopicLoraError(
            f"{checkpoint} was written by a version of topiclora that had no {new[0]}, and might go on otherwise now.",
            "Resume with that version, or start a new run with --out.",
        )
    for key in sorted({*before, *settings} - {EXAMPLES}):
        if before.get(key) != settings.get(key):
            raise TopicLoraError(
                f"{checkpoint} is of another recipe: {key} was {before.get(key)!r} and is {settings.get(key)!r} now.",
                "Resume without that change, or start a new run with --out.",
            )
    if trained_on not in (None, settings.get(EXAMPLES)):
        raise TopicLoraError(
            f"{checkpoint} was trained on other examples than there are now: the data or the tokenizer have changed.",
            "Put them back as they were (a stream's files are told apart by size and time), or start anew with --out.",
        )


def seal(checkpoint: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a finished checkpoint, then record the hash of each of its files."""
    write_json(checkpoint / SETTINGS, settings)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    write_json(checkpoint / SEAL, {str(path.relative_to(checkpoint)): sha256_file(path) for path in files})


def rotate(newest: Path, limit: int, *, best: str | None = None) -> None:
    """Delete the oldest checkpoints beyond `limit`, never the newest, which is sealed, nor the best; and all unsealed.

    transformers does it before the newest can be sealed: killed in between, a run that keeps one would have none.
    """
    kept = {newest.resolve(), *([Path(best).resolve()] if best else [])}
    others = [path for path in checkpoints_in(newest.parent) if path.resolve() not in kept]
    sealed = [path for path in others if (path / SEAL).is_file()]
    surplus = len(sealed) + len(kept) - max(limit, len(kept))
    for path in [*(path for path in others if path not in sealed), *sealed[:surplus]]:
        shutil.rmtree(path, ignore_errors=True)


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
    passed_over: list[Path] = []
    for path in reversed(checkpoints_in(folder)):
        if is_sound(path):
            return path, passed_over
        passed_over.append(path)
    return None, passed_over


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first, sound or not."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _of_this_kind(before: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that only other kinds of adapter have, which an earlier version wrote for all."""
    elsewhere = {f"adapter.{key}" for key in FIELDS} - settings.keys()
    return {key: value for key, value in before.items() if key not in elsewhere}


def _recipe_keys(settings: Mapping[str, Any]) -> set[str]:
    """The keys of a recipe's sections, whatever lies within their values; of losses, those within their terms."""
    parts = [key.split(".") for key in settings if "." in key and " " not in key]
    return {".".join(each[: 3 if each[0] == "loss" else 2]) for each in parts}


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = dict(enumerate(value))
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
