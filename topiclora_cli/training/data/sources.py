"""Opens what a recipe's source names: a table of rows, each a mapping from columns to values."""

from pathlib import Path

import datasets

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.data import EMBEDDED, SourceSection
from topiclora_cli.recipe.sources import source_definitions

_LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def open_source(section: SourceSection, *, key: str, split: str) -> datasets.Dataset:
    """The rows of a source other than the embedded one; raises TopicLoraError where it cannot be read.

    `key` is the section's place in the recipe, for messages.
    """
    # What goes wrong is told in one line of ours, not logged with a traceback.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    name = str(section.source)
    path = Path(name)
    if path.is_file() and path.stat().st_size == 0:
        raise TopicLoraError(f"{key}.source {name!r} is an empty file.", "Write it again.")
    try:
        if path.is_file() or name.startswith("https://"):
            if path.suffix not in _LOADERS:
                raise TopicLoraError(f"{path}: cannot read {path.suffix!r} files.", f"Use one of {sorted(_LOADERS)}.")
            return datasets.load_dataset(_LOADERS[path.suffix], data_files=name, split="train")
        return datasets.load_dataset(name, section.config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise TopicLoraError(
            f"Cannot read {key}.source {name!r} (config {section.config!r}, split {split!r}): {_reason(error)}",
            _hint(name),
        ) from None


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
