"""Which topics a row carries: from a column, the same for all rows, or looked up in a file."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import SourceSection, TopicsFile
from topiclora_cli.training.data.missing import Names
from topiclora_cli.training.data.tables import UnreadableError, read_table
from topiclora_cli.training.data.templates import Record, template

Topics = tuple[str, ...]


def topics_of(
    section: SourceSection, *, key: str, known: Collection[str] | None, names: Names
) -> Callable[[Record], Topics]:
    """A function from a row to its topics.

    known: the graph's topics, to which `unknown_topics: drop` keeps; None keeps all. Raises TopicLoraError for a file
    that cannot be read; the function notes a column that the row does not have in `names`.
    """
    find = _finder(section, key, names)
    if known is None or section.unknown_topics == "error":
        return find
    return lambda record: tuple(topic for topic in find(record) if topic in known)


def _finder(section: SourceSection, key: str, names: Names) -> Callable[[Record], Topics]:
    wanted = section.topics
    if isinstance(wanted, str):
        return lambda record: _column(key, wanted, record, names)
    if isinstance(wanted, TopicsFile):
        table, line = _read(wanted.file, f"{key}.topics.file"), template(f"{key}.topics.key", wanted.key, names)
        return lambda record: table.get(line(record), ())
    constant = tuple(wanted or ())
    return lambda record: constant


def _column(key: str, name: str, record: Record, names: Names) -> Topics:
    if name not in record:
        names.sought(name, f"{key}.topics")
    return _tuple(record.get(name))


def _tuple(value: str | Sequence[str] | None) -> Topics:
    return (str(value),) if isinstance(value, str) and value else tuple(topic for topic in value or () if topic)


def _read(file: str, key: str) -> dict[str, Topics]:
    path = Path(file)
    try:
        rows = list(read_table(path, "csv" if path.suffix == ".csv" else "json"))
    except (OSError, UnreadableError) as error:
        raise TopicLoraError(f"{key} {file!r} cannot be read: {error}.", "Name a .jsonl or .csv file.") from None
    try:
        if path.suffix == ".csv":
            return {str(row["key"]): _tuple([t.strip() for t in row["topics"].split(";")]) for row in rows}
        return {str(row["key"]): _tuple(row["topics"]) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TopicLoraError(
            f"{key} {file!r} has a line without key and topics ({type(error).__name__}: {error}).",
            'Lines are {"key": "...", "topics": ["..."]}, or a CSV of the columns key and topics.',
        ) from None
