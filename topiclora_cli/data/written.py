"""Values as the file wrote them: what a template prints of a number, a truth value or a list."""

import json
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from jinja2 import Undefined

from topiclora_cli.data.missing import Missing, MissingValue

_WITH_TEXT = (str, int, float, Decimal, date, time, timedelta)


class Cell(str):
    """A cell of a CSV file: text, whatever it looks like.

    Compared with a number it raises TypeError, because the two are never equal and a filter would go wrong in silence.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | float):
            raise TypeError(f"{str(self)!r} is text, as every cell of a CSV file is: write `| int` or `| float`")
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Number(float):
    """A number of a JSON file with a fraction or an exponent, which is printed as the file has it."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "Number":
        """The number that `text` says."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def written(value: Any) -> Any:
    """What a template prints of a value: truth values, lists and mappings as JSON writes them, texts, numbers and times
    as they are.

    Raises MissingValue for nothing at all, and TypeError for what has no text: a function, bytes, an unfinished list.
    """
    if value is None or (isinstance(value, float) and value != value):
        raise MissingValue("a value of an expression")
    if isinstance(value, bool | list | tuple | dict):
        return as_json(value)
    if isinstance(value, (*_WITH_TEXT, Undefined)):
        return value
    if isinstance(value, Iterator):
        raise TypeError("a filter's result is not a list yet: add `| list` or `| join(...)`")
    if callable(value):
        raise TypeError(f"{getattr(value, '__name__', value)!r} is a function, not a column")
    of_jinja = "; a column of that name is row['...']" if type(value).__module__.startswith("jinja2") else ""
    raise TypeError(f"a {type(value).__name__} is no text{of_jinja}")


def as_json(value: Any) -> str:
    """A value as JSON on one line, its numbers as the file has them; null for what is missing."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_json(str(key))}: {as_json(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_json, value)) + "]"
    if isinstance(value, Number):
        return value.text
    if value is None or isinstance(value, Missing) or (isinstance(value, float) and value != value):
        return "null"
    return json.dumps(value if isinstance(value, str | int | float) else str(written(value)), ensure_ascii=False)


def whole_number(value: Any) -> int:
    """The whole number that a value is or says; raises ValueError for anything else."""
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{value!r} is no whole number") from None


def number(value: Any) -> float:
    """The number that a value is or says; raises ValueError for anything else."""
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no number") from None
