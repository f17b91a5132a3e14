"""Values that a row does not have: a null, an empty cell of a CSV file, a number that is none, a key that is absent.

Jinja would print them as the word None, and the word would be trained on. Here they are undefined in a template: what
asks for their text gets an error that leaves the row out, while `{% if x %}`, `x is defined`, `x == ''` and
`x | default('...')` work as one expects.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, UndefinedError

from topiclora_cli.errors import TopicLoraError, nearest


class MissingValue(UndefinedError):
    """A row lacks a value that its text needs; the message names it."""


class Missing(StrictUndefined):
    """A value that is not there: false, equal to an empty text and to none, and of no text of its own."""

    __slots__ = ()

    def __init__(self, hint: str | None = None, obj: Any = None, name: Any = None, exc: Any = UndefinedError) -> None:
        # Jinja has errors of its own for what its sandbox forbids.
        super().__init__(hint, obj, name, MissingValue if exc is UndefinedError else exc)

    @property
    def _undefined_message(self) -> str:
        self._used()
        return self._undefined_hint or str(self._undefined_name)

    def _used(self) -> None:
        """Called when a template does anything with the value but ask whether it is defined."""

    def __bool__(self) -> bool:  # type: ignore[override]
        self._used()
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        self._used()
        return other is None or isinstance(other, Missing) or (isinstance(other, str) and not other)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash("")


class Names:
    """The columns and keys that rows have, and those that templates sought in a row without them."""

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}  # in their order
        self._keys: set[str] = set()  # of the values within
        self._sought: dict[str, str] = {}

    def marked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with Missing in every place of it, also within lists and mappings, that holds nothing."""
        if not row.keys() <= self.columns.keys():
            self.columns |= dict.fromkeys(row)
        return {name: self._marked(value, name) for name, value in row.items()}

    def _marked(self, value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            self._keys.update(map(str, value))
            return {key: self._marked(part, f"{name}.{key}") for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(part, name) for part in value]
        if value is None or (isinstance(value, float) and value != value):
            return Missing(name=name)
        return value

    def sought(self, name: object, key: str) -> None:
        """Note a column or key that the recipe's `key` wants and a row does not have."""
        self._sought.setdefault(str(name), key)

    def refuse_unknown(self) -> None:
        """Raises TopicLoraError for a name that was sought and that no row had."""
        for name, key in self._sought.items():
            if name not in self.columns and name not in self._keys:
                odd = next((column for column in self.columns if not column.isidentifier()), None)
                how = f' A template says row["{odd}"] for such a name.' if odd is not None else ""
                close = nearest(name, self.columns)
                meant = f"{close} " if close.startswith("Did") else ""
                raise TopicLoraError(
                    f"{key} uses a missing column: {name!r}.", f"{meant}Columns: {', '.join(self.columns)}.{how}"
                )


def list_missing(wanting: Mapping[str, int]) -> str:
    """What was missing and how often: "answer 3, question 1"."""
    return ", ".join(f"{name} {number}" for name, number in Counter(wanting).most_common())
