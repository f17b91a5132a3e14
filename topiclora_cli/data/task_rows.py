"""The questions of a task file: its data read, and every row put as the file says."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from topiclora_cli.data.files import kind_of_file
from topiclora_cli.data.missing import Missing, MissingValue, Names
from topiclora_cli.data.reading import kind_of
from topiclora_cli.data.tables import Record, UnreadableError, read_table
from topiclora_cli.data.task_file import TaskFile
from topiclora_cli.data.templates import condition, expression, template
from topiclora_cli.data.written import written
from topiclora_cli.errors import TopicLoraError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class AskedRow:
    """A question as text, with its choices, none of a free answer; answer: the right one's text.

    kind: its value of the file's `by`, or empty.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: str
    kind: str


def read_rows(file: TaskFile, key: str = "data") -> list[AskedRow]:
    """The rows of the file's `data`, or of its `examples`, in their order.

    Raises TopicLoraError, with the line of the task file or of the data, for data that cannot be read, a column that is
    not there (with the nearest), a row without what its question needs, an answer that is none of the choices, and
    where no row is left.
    """
    names = Names()
    keep = condition(file.where("filter"), file.filter or "true", names)
    question, answer = (_text(file, each, names) for each in ("question", "answer"))
    choices = _choices(file, names)
    rows, lacking = list[AskedRow](), None
    for record in _records(file, key):
        row = names.marked(record)
        try:
            if not keep(row):
                continue
            found = choices(row)
            right = answer(row).strip()
            asked = question(row).rstrip()  # the space before the answer is the task's
        except MissingValue as error:
            lacking = lacking or f"{record.place}: the row has no value for {error.message!r}."
            continue
        if file.choices is not None:
            right = _chosen(right, found, file, record)
        rows.append(AskedRow(asked, found, right, kind_of(row, file.by, file.where("by"), names) if file.by else ""))
    names.refuse_unknown()
    if lacking:
        raise TopicLoraError(lacking, "Mend the row, or leave such rows out by filter.")
    if not rows:
        raise TopicLoraError(f"{file.where(key)} has no row to ask.", "Mend the data, or loosen filter.")
    return rows


def _records(file: TaskFile, key: str) -> Iterator[Record]:
    named = str(getattr(file, key))
    path = file.path.parent / named
    kind = kind_of_file(named)
    if kind is None:
        raise TopicLoraError(
            f"{file.where(key)} {named!r} is of no kind that is read.", "Use .parquet, .jsonl or .csv."
        )
    try:
        for record in read_table(path, kind):
            record.file = str(path)
            yield record
    except FileNotFoundError:
        raise TopicLoraError(f"{file.where(key)} is not at hand: there is no {path}.", "Copy it there.") from None
    except UnreadableError as error:
        raise TopicLoraError(f"{path}: {error}.", error.hint) from None
    except (OSError, ValueError) as error:
        if isinstance(error, TopicLoraError):
            raise
        raise TopicLoraError(f"{path} cannot be read: {str(error).splitlines()[0]}.", "Write it again.") from None


def _text(file: TaskFile, key: str, names: Names) -> Callable[[Row], str]:
    """What is no template is the name of a column, or an expression."""
    text = str(getattr(file, key))
    if "{" in text:
        return template(file.where(key), text, names)
    value = expression(file.where(key), text, names)
    return lambda row: str(written(value(row)))


def _choices(file: TaskFile, names: Names) -> Callable[[Row], tuple[str, ...]]:
    where = file.where("choices")
    if file.choices is None:
        return lambda row: ()
    if isinstance(file.choices, list):
        each = [template(where, str(choice), names) for choice in file.choices]
        return lambda row: tuple(fill(row) for fill in each)
    value = expression(where, file.choices, names)

    def listed(row: Row) -> tuple[str, ...]:
        found = value(row)
        if not isinstance(found, list | tuple | Missing):
            raise TopicLoraError(
                f"{where} gives {str(found)[:40]!r}, which is no list.", "Example: choices: [a, b], or text.split('|')"
            )
        return tuple(str(written(choice)) for choice in found)

    return listed


def _chosen(right: str, choices: Sequence[str], file: TaskFile, record: Record) -> str:
    """The right choice by its text, else by its place, else by its letter."""
    if right in choices:
        return right
    place = int(right) if right.isdecimal() else ascii_uppercase.find(right.upper()) if len(right) == 1 else -1
    if 0 <= place < len(choices):
        return choices[place]
    raise TopicLoraError(
        f"{record.place}: the answer {right[:40]!r} is none of the choices {str(list(choices))[:80]}.",
        f"{file.where('answer')} is to be a choice, its place from 0, or its letter.",
    )
