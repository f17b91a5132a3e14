"""Opens what a recipe's source names: rows, each a mapping from columns to values."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from topiclora_cli.data.files import is_pattern, local_files, looks_local, one_kind
from topiclora_cli.data.tables import KINDS, PACKED, Record, UnreadableError, read_table
from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.data import EMBEDDED, SourceSection
from topiclora_cli.recipe.sources import source_definitions

# What goes wrong while a source is opened or, as a stream, read.
_TROUBLE = (OSError, ValueError, StopIteration)
BUFFER = 10_000  # rows of a stream among which the next one is drawn


def open_source(
    section: SourceSection, *, key: str, split: str, shuffled_stream: tuple[int, int] | None = None
) -> Iterator[Record]:
    """The rows of a source other than the embedded one; raises TopicLoraError where it cannot be read.

    `key` is the section's place in the recipe, for messages. `shuffled_stream`, a seed and the number of the pass, asks
    for rows read as they are needed, each drawn from a buffer. Files are read by `tables`, those of a local folder too;
    a hub's rows, and those of Dataset.save_to_disk, have the types that they have there.
    """
    name = str(section.source)
    try:
        path, local = Path(name), [str(file) for file in local_files(name)]
        if is_pattern(name) and not local:
            raise TopicLoraError(f"{key}.source {name!r} matches no file.", f"Looked for them from {Path.cwd()}.")
        if local or name.startswith("https://"):
            files = local or [name]
            kind = one_kind(files, key)
            if path.is_file() and path.stat().st_size == 0:
                raise TopicLoraError(f"{key}.source {name!r} is an empty file.", "Write it again.")
            yield from _of_files(files, kind, None, shuffled_stream)
        elif (saved := _saved(path, split)) is not None:
            yield from _drawn(_numbered(saved), shuffled_stream)
        elif path.is_dir() and (found := _files(name, section.config, split)):
            yield from _of_files(*found, shuffled_stream)
        elif looks_local(name) and not path.exists():
            raise TopicLoraError(f"{key}.source {name!r} does not exist.", f"Looked for it from {Path.cwd()}.")
        else:
            yield from _of_datasets(name, section.config, split, shuffled_stream)
    except TopicLoraError:
        raise
    except (*_TROUBLE, _library().exceptions.DatasetGenerationError) as error:
        hint = error.hint if isinstance(error, UnreadableError) else _hint(name)
        raise TopicLoraError(
            f"Cannot read {key}.source {name!r} (config {section.config!r}, split {split!r}): {_reason(error)}", hint
        ) from None


def _of_files(
    files: Sequence[str], kind: str, delimiter: str | None, drawn: tuple[int, int] | None
) -> Iterator[Record]:
    order = list(files)
    if drawn is not None:
        Random(f"files/{drawn}").shuffle(order)

    def rows() -> Iterator[Record]:
        for file in order:
            path = Path(file)
            if path.suffix not in (*KINDS, *PACKED) or not path.is_file():  # an archive, or it lies elsewhere
                path = Path(_library().DownloadManager(record_checksums=False).download_and_extract(file))
            try:
                for row in read_table(path, kind, delimiter=delimiter):
                    row.file = file
                    yield row
            except UnreadableError as error:
                raise UnreadableError(f"{file}: {error}" if len(order) > 1 else str(error), error.hint) from None

    return _drawn(rows(), drawn)


def _drawn(rows: Iterable[Record], drawn: tuple[int, int] | None) -> Iterator[Record]:
    """Rows in their order, or each drawn from a buffer that the next one then fills."""
    if drawn is None:
        yield from rows
        return
    random, buffer = Random(f"rows/{drawn}"), list[Record]()
    for row in rows:
        if len(buffer) < BUFFER:
            buffer.append(row)
            continue
        place = random.randrange(BUFFER)
        yield buffer[place]
        buffer[place] = row
    random.shuffle(buffer)
    yield from buffer


def _files(folder: str, config: str | None, split: str) -> tuple[list[str], str, str | None] | None:
    """The files of a folder's split, their kind and what parts their cells; None where they are of another kind."""
    builder = _library().load_dataset_builder(folder, config)
    settings: Any = builder.config
    if builder.name not in KINDS.values() or getattr(settings, "field", None) is not None:
        return None
    if split not in settings.data_files:
        raise ValueError(f"the folder has no split {split!r}, but {', '.join(map(repr, settings.data_files))}")
    delimiter = getattr(settings, "delimiter", None) or getattr(settings, "sep", None)
    return list(settings.data_files[split]), builder.name, None if delimiter == "," else delimiter


def _saved(path: Path, split: str) -> Any:
    """The table that Dataset.save_to_disk, or that of a DatasetDict, wrote; None for any other folder."""
    if (path / "dataset_dict.json").is_file():
        tables = _library().load_from_disk(str(path))
        if split not in tables:
            raise ValueError(f"the folder has no split {split!r}, but {', '.join(map(repr, tables))}")
        return tables[split]
    return _library().load_from_disk(str(path)) if (path / "state.json").is_file() else None


def _of_datasets(name: str, config: str | None, split: str, drawn: tuple[int, int] | None) -> Iterator[Record]:
    rows = _library().load_dataset(name, config, split=split, streaming=drawn is not None)
    if drawn is not None:
        seed, number = drawn
        rows = rows.shuffle(seed=seed, buffer_size=BUFFER)
        rows.set_epoch(number)
    return _numbered(rows)


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[Record]:
    return (Record(row, "row", number) for number, row in enumerate(rows, 1))


def _library() -> Any:
    """The package datasets: half a second, which those who read none but the embedded tasks need not wait."""
    import datasets

    # What goes wrong is told in one line of ours, not logged with a traceback.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def _reason(error: BaseException) -> str:
    # datasets wraps what a reader says of a damaged file.
    said = error.__cause__ or error
    text = str(said).strip() or str(error).strip()
    return f"{text.splitlines()[0].rstrip('.')}." if text else type(said).__name__


def _hint(name: str) -> str:
    if "/" not in name and not Path(name).suffix:
        known = [EMBEDDED, *source_definitions()]
        return f"{nearest(name, known)} Or set a hub id, a folder, or a .jsonl, .csv or .parquet file."
    return f"Set it to {EMBEDDED!r}, a ready definition, a hub id, a folder, or a .jsonl, .csv or .parquet file."
