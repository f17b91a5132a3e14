"""Opens what a recipe's source names: a table of rows, each a mapping from columns to values."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.data import EMBEDDED, SourceSection
from topiclora_cli.recipe.sources import source_definitions

_LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


# What goes wrong while a source is opened or, as a stream, read.
_TROUBLE = (OSError, ValueError, datasets.exceptions.DatasetGenerationError, StopIteration)
BUFFER = 10_000  # rows of a stream among which the next one is drawn


def open_source(
    section: SourceSection, *, key: str, split: str, shuffled_stream: tuple[int, int] | None = None
) -> Iterable[Mapping[str, Any]]:
    """The rows of a source other than the embedded one; raises TopicLoraError where it cannot be read.

    `key` is the section's place in the recipe, for messages. `shuffled_stream`, a seed and the number of the pass, asks
    for rows read as they are needed, each drawn from a buffer.
    """
    # What goes wrong is told in one line of ours, not logged with a traceback.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    name = str(section.source)
    path = Path(name)
    streaming = shuffled_stream is not None
    if path.is_file() and path.stat().st_size == 0:
        raise TopicLoraError(f"{key}.source {name!r} is an empty file.", "Write it again.")
    try:
        if path.is_file() or name.startswith("https://"):
            if path.suffix not in _LOADERS:
                raise TopicLoraError(f"{path}: cannot read {path.suffix!r} files.", f"Use one of {sorted(_LOADERS)}.")
            rows = datasets.load_dataset(_LOADERS[path.suffix], data_files=name, split="train", streaming=streaming)
        else:
            rows = datasets.load_dataset(name, section.config, split=split, streaming=streaming)
        if shuffled_stream is None:
            return rows
        seed, number = shuffled_stream
        rows = rows.shuffle(seed=seed, buffer_size=BUFFER)
        rows.set_epoch(number)
    except _TROUBLE as error:
        raise _unreadable(section, key, split, error) from None
    return _while_reading(rows, section, key, split)


def _while_reading(
    rows: Iterable[Mapping[str, Any]], section: SourceSection, key: str, split: str
) -> Iterator[Mapping[str, Any]]:
    try:
        yield from rows
    except _TROUBLE as error:
        raise _unreadable(section, key, split, error) from None


def _unreadable(section: SourceSection, key: str, split: str, error: BaseException) -> TopicLoraError:
    return TopicLoraError(
        f"Cannot read {key}.source {section.source!r} (config {section.config!r}, split {split!r}): {_reason(error)}",
        _hint(str(section.source)),
    )


def _reason(error: BaseException) -> str:
    # datasets wraps what a reader says of a damaged file.
    said = error.__cause__ or error
    text = str(said).strip() or str(error).strip()
    return text.splitlines()[0] if text else type(said).__name__


def _hint(name: str) -> str:
    if "/" not in name and not Path(name).suffix:
        known = [EMBEDDED, *source_definitions()]
        return f"{nearest(name, known)} Or set a hub id, a folder, or a .jsonl, .csv or .parquet file."
    return f"Set it to {EMBEDDED!r}, a ready definition, a hub id, a folder, or a .jsonl, .csv or .parquet file."
