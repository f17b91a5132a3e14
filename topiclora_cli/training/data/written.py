"""Values as the file wrote them: what a template prints of a number, a truth value or a list."""

import json
from typing import Any

from jinja2 import Undefined

from topiclora_cli.training.data.missing import Missing, MissingValue


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
    """What a template prints of a value: truth values, lists and mappings as JSON writes them, all else as it is.

    Raises MissingValue for nothing at all, and TypeError for a function, which a template meant to call or to be a
    column.
    """
    if isinstance(value, bool):
        return json.dumps(value)
    if value is None or (isinstance(value, float) and value != value):
        raise MissingValue("a value of an expression")
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=_within)
    if callable(value) and not isinstance(value, Undefined):
        raise TypeError(f"{getattr(value, '__name__', value)!r} is a function, not a column")
    return value


def _within(value: Any) -> Any:
    return None if isinstance(value, Missing) else str(value)


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
