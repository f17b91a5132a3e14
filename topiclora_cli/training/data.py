"""From a recipe's data section to token ids, with the prompt told apart from its completion."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import jinja2
from transformers import PreTrainedTokenizerBase

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.schema import DataSection
from topiclora_cli.tasks import mixture

_LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Row:
    """One training example as text: `completion` starts with the space that follows the prompt."""

    prompt: str
    completion: str
    topics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """One training example as token ids; the first `prompt_length` of `input_ids` are the prompt."""

    row: Row
    input_ids: list[int]
    prompt_length: int


def load_rows(data: DataSection, *, seed: int, split: str | None = None) -> list[Row]:
    """Read the examples a recipe names.

    `split` overrides the recipe's. Raises TopicLoraError for a source, column or split that does not exist and for
    an empty source.
    """
    if data.source == "quickstart":
        examples = mixture(split or data.split, data.per_family, seed=seed)
        rows = [Row(e.prompt, " " + e.answer, e.topics) for e in examples]
    else:
        table = _open(data, split or data.split)
        rows = [_render(data, record) for record in _take(table, data.limit)]
    rows = rows[: data.limit]
    if not rows:
        raise TopicLoraError(f"data.source {data.source!r} has no examples.", "Check data.split and data.limit.")
    return rows


def encode_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[Encoded]:
    """Tokenise rows, ending each with the end-of-sequence token and leaving out those longer than `max_length`.

    Prompt and completion are cut from one encoding of the whole text, as lm-evaluation-harness scores them. Raises
    TopicLoraError when nothing fits.
    """
    prompts = tokenizer([row.prompt for row in rows])["input_ids"]
    wholes = tokenizer([row.prompt + row.completion for row in rows])["input_ids"]
    encoded = []
    for row, prompt, whole in zip(rows, prompts, wholes, strict=True):
        if whole[-1] != tokenizer.eos_token_id:
            whole = [*whole, tokenizer.eos_token_id]
        if len(prompt) < len(whole) <= max_length:
            encoded.append(Encoded(row, whole, len(prompt)))
    if not encoded:
        raise TopicLoraError(
            f"None of the {len(rows)} examples fits data.max_length ({max_length} tokens).", "Raise data.max_length."
        )
    return encoded


def _open(data: DataSection, split: str) -> datasets.Dataset:
    path = Path(data.source)
    try:
        if path.is_file():
            if path.suffix not in _LOADERS:
                raise TopicLoraError(f"{path}: cannot read {path.suffix!r} files.", f"Use one of {sorted(_LOADERS)}.")
            return datasets.load_dataset(_LOADERS[path.suffix], data_files=str(path), split="train")
        return datasets.load_dataset(data.source, data.config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TopicLoraError(
            f"Cannot read data.source {data.source!r} (config {data.config!r}, split {split!r}): {reason}",
            "Set data.source to 'quickstart', a hub id, a folder, or a .jsonl, .csv or .parquet file.",
        ) from None


def _take(table: datasets.Dataset, limit: int | None) -> Iterable[Mapping[str, Any]]:
    return table if limit is None else table.select(range(min(limit, len(table))))


def _render(data: DataSection, record: Mapping[str, Any]) -> Row:
    assert data.prompt is not None
    assert data.completion is not None
    prompt = _fill("data.prompt", data.prompt, record).rstrip()
    completion = _fill("data.completion", data.completion, record).strip()
    topics: Sequence[str] | str = ()
    if data.topics is not None:
        if data.topics not in record:
            raise TopicLoraError(
                f"data.topics names a column {data.topics!r} that does not exist.", nearest(data.topics, record)
            )
        topics = record[data.topics] or ()
    return Row(prompt, " " + completion, (topics,) if isinstance(topics, str) else tuple(topics))


def _fill(key: str, template: str, record: Mapping[str, Any]) -> str:
    try:
        return jinja2.Template(template, undefined=jinja2.StrictUndefined).render(record)
    except jinja2.UndefinedError as error:
        raise TopicLoraError(f"{key} uses a missing column: {error}.", f"Columns: {', '.join(record)}.") from None
    except jinja2.TemplateSyntaxError as error:
        raise TopicLoraError(f"{key} is not a valid Jinja template: {error}.", "Mend the template.") from None
