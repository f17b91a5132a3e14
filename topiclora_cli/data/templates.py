"""Small Jinja templates over a row's columns, printed to the letter, with filters for multiple choice.

`{{ choices | options }}` writes "A. ..." and so on, one option a line, and `{{ answer | letter }}` the letter of a
place in that list. Some sets put the right choice always first: `{{ choices | shuffled | options }}` with
`{{ (choices | shuffled).index(choices[answer]) | letter }}` leaves no letter to learn by heart.

A column is named by itself, or, where Jinja could not read its name, through the row: `{{ row["correct-answer"] }}`. A
key comes before a method of its name: `{{ x.items }}` is x's "items". Columns of a CSV file are text; `answer | int`
and `price | float` make numbers of them, or say that they are none. Rows are data from anywhere, so templates run in
Jinja's sandbox.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from string import ascii_uppercase
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes, pass_environment
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import TemplateRuntimeError
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment

from topiclora_cli.data.missing import Missing, MissingValue, Names
from topiclora_cli.data.written import as_json, number, whole_number, written
from topiclora_cli.errors import TopicLoraError

Record = Mapping[str, Any]
ROW = "row"  # the whole row's name in a template, unless a column is called so


def options(choices: Sequence[Any], separator: str = "\n") -> str:
    """Choices as lettered options: "A. first", "B. second" and so on; raises ValueError for more than 26."""
    return separator.join(f"{letter(place)}. {written(choice)}" for place, choice in enumerate(choices))


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


@pass_environment
def joined(environment: Environment, items: Iterable[Any], separator: Any = "", attribute: Any = None) -> str:
    """Jinja's join, of what a template would print of each."""
    parts = items if attribute is None else map(make_attrgetter(environment, attribute), items)
    return str(separator).join(str(written(part)) for part in parts)


def tojson(value: Any) -> str:
    """A value as JSON to the letter; raises MissingValue for none at all."""
    return as_json(value) if not isinstance(value, Missing) else str(value)


class _Printer(CodeGenerator):
    """Joins by `~` what a template would print, where Jinja joins what Python does."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:
        """`a ~ b` in Python."""
        self.write("str_join((")
        for part in node.nodes:
            self.write("environment.finalize(")
            self.visit(part, frame)
            self.write("), ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja for one template of the recipe's `key`; what it seeks in vain is noted in `names`."""

    code_generator_class = _Printer

    def __init__(self, key: str, names: Names) -> None:
        class Absent(Missing):
            __slots__ = ()

            def _used(self) -> None:
                names.sought(self._undefined_name, key)

        super().__init__(undefined=Absent, finalize=written, keep_trailing_newline=True)
        self.filters |= {"options": options, "letter": letter, "shuffled": shuffled}
        # Jinja's own print what Python does, and escape JSON for web pages.
        self.filters |= {"join": joined, "string": lambda value: str(written(value)), "tojson": tojson}
        # Jinja's own make 0 of what is no number.
        self.filters |= {"int": whole_number, "float": number}
        self.tests["none"] = lambda value: value is None or isinstance(value, Missing)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """The key of a mapping, else an attribute."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """The key of a mapping or place of a list, else, but for mappings, an attribute."""
        if isinstance(obj, Mapping) and argument not in obj:
            return self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)


def template(key: str, text: str, names: Names) -> Callable[[Record], str]:
    """A function that fills a template in to the letter; `key` is what messages call it.

    Raises TopicLoraError for a template that does not parse. The function raises MissingValue for a value that the row
    lacks, noting in `names` a column that it does not even have, and TopicLoraError for one that a filter cannot take.
    """
    try:
        compiled = _Environment(key, names).from_string(text)
    except TemplateSyntaxError as error:
        raise TopicLoraError(f"{key} is not a valid Jinja template: {error}.", "Mend the template.") from None
    return _explained(key, lambda record: compiled.render({ROW: record, **record}))


def condition(key: str, text: str, names: Names) -> Callable[[Record], bool]:
    """A function that says whether a Jinja expression holds of a row; both raise as those of `template` do."""
    value = expression(key, text, names)
    return lambda record: bool(value(record))


def expression(key: str, text: str, names: Names) -> Callable[[Record], Any]:
    """A function from a row to the value of a Jinja expression; both raise as those of `template` do."""
    try:
        compiled = _Environment(key, names).compile_expression(text, undefined_to_none=False)
    except TemplateSyntaxError as error:
        raise TopicLoraError(f"{key} is not a valid Jinja expression: {error}.", "Example: answer >= 0") from None
    return _explained(key, lambda record: compiled({ROW: record, **record}))


def _explained(key: str, fill: Callable[[Record], Any]) -> Callable[[Record], Any]:
    def call(record: Record) -> Any:
        try:
            return fill(record)
        except (MissingValue, TopicLoraError):
            raise
        except (TemplateRuntimeError, TypeError, ValueError, ArithmeticError) as error:
            raise TopicLoraError(
                f"{key} fails on a row: {error}.", "Mend it, or leave such rows out by filter."
            ) from None

    return call
