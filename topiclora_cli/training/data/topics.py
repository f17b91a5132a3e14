"""Which topics a row carries: from a column, the same for all rows, or looked up in a file."""

import csv
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.data import SourceSection, TopicsFile
from topiclora_cli.training.data.templates import Record, template

Topics = tuple[str, ...]


def topics_of(section: SourceSection, *, key: str, known: Collection[str] | None) -> Callable[[Record], Topics]:
    """A function from a row to its topics.

    known: the graph's topics, to which `unknown_topics: drop` keeps; None keeps all. Raises TopicLoraError for a file
    that cannot be read; the function, for a column that is missing.
    """
    find = _finder(section, key)
    if known is None or section.unknown_topics == "error":
        return find
    return lambda record: tuple(topic for topic in find(record) if topic in known)


def _finder(section: SourceSection, key: str) -> Callable[[Record], Topics]:
    wanted = section.topics
    if isinstance(wanted, str):
        return lambda record: _column(key, wanted, record)
    if isinstance(wanted, TopicsFile):
        table, line = _read(wanted.file, f"{key}.topics.file"), template(f"{key}.topics.key", wanted.key)
        return lambda record: table.get(line(record), ())
    constant = tuple(wanted or ())
    return lambda record: constant


def _column(key: str, name: str, record: Record) -> Topics:
    if name not in record:
        raise TopicLoraError(f"{key}.topics names a column {name!r} that does not exist.", nearest(name, record))
    return _tuple(record[name])


def _tuple(value: str | Sequence[str] | None) -> Topics:
    return (value,) if isinstance(value, str) and value else tuple(value or ())


def _read(file: str, key: str) -> dict[str, Topics]:
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TopicLoraError(f"{key} {file!r} cannot be read: {error}.", "Name a .jsonl or .csv file.") from None
    try:
        if path.suffix == ".csv":
            rows: list[Mapping[str, Any]] = list(csv.DictReader(text.splitlines()))
            return {row["key"]: tuple(t.strip() for t in row["topics"].split(";") if t.strip()) for row in rows}
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        return {row["key"]: _tuple(row["topics"]) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TopicLoraError(
            f"{key} {file!r} has a line without key and topics ({type(error).__name__}: {error}).",
            'Lines are {"key": "...", "topics": ["..."]}, or a CSV of the columns key and topics.',
        ) from None
