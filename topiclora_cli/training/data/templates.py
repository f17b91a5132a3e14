"""Small Jinja templates over a row's columns, with three filters for multiple choice.

`{{ choices | options }}` writes "A. ..." and so on, one option a line, and `{{ answer | letter }}` the letter of a
place in that list. Some sets put the right choice always first: `{{ choices | shuffled | options }}` with
`{{ (choices | shuffled).index(choices[answer]) | letter }}` leaves no letter to learn by heart. Rows are data from
anywhere, so templates run in Jinja's sandbox.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from string import ascii_uppercase
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import TemplateRuntimeError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from topiclora_cli.errors import TopicLoraError

Record = Mapping[str, Any]


def options(choices: Sequence[Any], separator: str = "\n") -> str:
    """Choices as lettered options: "A. first", "B. second" and so on; raises ValueError for more than 26."""
    return separator.join(f"{letter(place)}. {choice}" for place, choice in enumerate(choices))


def letter(place: Any, start: int = 0) -> str:
    """The letter of an option's place, counted from `start`; a letter stays itself.

    Raises ValueError for what is neither a letter nor a place of the alphabet.
    """
    text = str(place).strip()
    if len(text) == 1 and text.upper() in ascii_uppercase:
        return text.upper()
    try:
        number = int(text) - start
    except ValueError:
        number = -1
    if not 0 <= number < len(ascii_uppercase):
        raise ValueError(f"{place!r} is no place in a list of options counted from {start}")
    return ascii_uppercase[number]


def shuffled(choices: Iterable[Any]) -> list[Any]:
    """The choices in an order that depends on them alone: the same list ("yes", "no") is always in the same one."""
    order = list(choices)
    Random("\0".join(map(str, order))).shuffle(order)
    return order


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    environment.filters |= {"options": options, "letter": letter, "shuffled": shuffled}
    return environment


_ENVIRONMENT = _environment()


def template(key: str, text: str) -> Callable[[Record], str]:
    """A function that fills a template in; `key` is what messages call it.

    Raises TopicLoraError for a template that does not parse; the function raises it for a column that is missing and
    for a value that a filter cannot take.
    """
    try:
        compiled = _ENVIRONMENT.from_string(text)
    except TemplateSyntaxError as error:
        raise TopicLoraError(f"{key} is not a valid Jinja template: {error}.", "Mend the template.") from None
    return _explained(key, compiled.render)


def condition(key: str, text: str) -> Callable[[Record], bool]:
    """A function that says whether a Jinja expression holds of a row; raises TopicLoraError as `template` does."""
    try:
        compiled = _ENVIRONMENT.compile_expression(text, undefined_to_none=False)
    except TemplateSyntaxError as error:
        raise TopicLoraError(f"{key} is not a valid Jinja expression: {error}.", "Example: answer >= 0") from None
    return _explained(key, lambda record: bool(compiled(record)))


def _explained(key: str, fill: Callable[[Record], Any]) -> Callable[[Record], Any]:
    def call(record: Record) -> Any:
        try:
            return fill(record)
        except UndefinedError as error:
            raise TopicLoraError(f"{key} uses a missing column: {error}.", f"Columns: {', '.join(record)}.") from None
        except (TemplateRuntimeError, TypeError, ValueError, ArithmeticError) as error:
            raise TopicLoraError(
                f"{key} fails on a row: {error}.", "Mend it, or leave such rows out by filter."
            ) from None

    return call
