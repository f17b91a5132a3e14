"""Which topics a row carries: from a column, the same for all rows, or looked up in a file."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from topiclora_cli.data.missing import MissingValue, Names
from topiclora_cli.data.tables import UnreadableError, read_table
from topiclora_cli.data.templates import Record, template
from topiclora_cli.data.written import written
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import SourceSection, TopicsFile

Topics = tuple[str, ...]


def topics_of(
    section: SourceSection, *, key: str, known: Collection[str] | None, names: Names
) -> Callable[[Record], Topics]:
    """A function from a row to its topics.

    known: the graph's topics, to which `unknown_topics: drop` keeps; None keeps all. Raises TopicLoraError for a file
    that cannot be read; the function notes a column that the row does not have in `names`.
    """
    find = _finder(section, key, names)
    return lambda record: known_only(find(record), section, known)


def known_only(topics: Topics, section: SourceSection, known: Collection[str] | None) -> Topics:
    """The topics of a row but for those that the graph does not know, where the source leaves such out."""
    if known is None or section.unknown_topics == "error":
        return topics
    return tuple(topic for topic in topics if topic in known)


def _finder(section: SourceSection, key: str, names: Names) -> Callable[[Record], Topics]:
    wanted = section.topics
    if isinstance(wanted, str):
        return lambda record: _column(key, wanted, record, names)
    if isinstance(wanted, TopicsFile):
        table, line = _read(wanted.file, f"{key}.topics.file"), template(f"{key}.topics.key", wanted.key, names)

        def look_up(record: Record) -> Topics:
            try:
                return table.get(line(record), ())
            except MissingValue:
                return ()

        return look_up
    constant = tuple(wanted or ())
    return lambda record: constant


def _column(key: str, name: str, record: Record, names: Names) -> Topics:
    if name not in record:
        names.sought(name, f"{key}.topics")
    return _tuple(record.get(name))


def _tuple(value: Any) -> Topics:
    """The topics of one name or a list of them, as JSON writes those that are no text; none of what is missing."""
    values = value if isinstance(value, list | tuple) else [value]
    try:
        return tuple(str(written(topic)) for topic in values if topic is not None and topic != "")
    except TypeError as error:
        raise TopicLoraError(f"Topics are names, and {error}.", "Name a column of text.") from None


def _read(file: str, key: str) -> dict[str, Topics]:
    path = Path(file)
    try:
        rows: list[dict[str, Any]] = list(read_table(path, "csv" if path.suffix == ".csv" else "json"))
    except (OSError, UnreadableError) as error:
        raise TopicLoraError(f"{key} {file!r} cannot be read: {error}.", "Name a .jsonl or .csv file.") from None
    try:
        if path.suffix == ".csv":
            rows = [{**row, "topics": [t.strip() for t in (row["topics"] or "").split(";")]} for row in rows]
        return {str(written(row["key"])): _tuple(row["topics"]) for row in rows}
    except (MissingValue, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TopicLoraError(
            f"{key} {file!r} has a line without key and topics ({type(error).__name__}: {error}).",
            'Lines are {"key": "...", "topics": ["..."]}, or a CSV of the columns key and topics.',
        ) from None
