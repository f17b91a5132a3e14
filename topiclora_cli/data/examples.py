"""How a source's row becomes examples: by templates, or by the turns of a conversation."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from topiclora_cli.data.conversations import conversations, style_of
from topiclora_cli.data.formats import (
    Layout,
    empty_chat,
    layout_of,
    messages_of,
    refuse_unknown_format,
    tools_of,
    with_chats,
)
from topiclora_cli.data.missing import Missing, MissingValue, Names
from topiclora_cli.data.row import ASSISTANT, Row, Turn, as_row
from topiclora_cli.data.templates import Record, template
from topiclora_cli.data.topics import Topics, topics_of
from topiclora_cli.data.written import number, written
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import SourceSection, WeightColumn

Made = list[Row | MissingValue]
_OPENED = f"{ASSISTANT.capitalize()}:"


@dataclass
class Examples:
    """Makes the examples of a source's rows, one or several of each; `key` is the section's place in the recipe.

    taken: the format that the rows were found to be in, None where the section says how to read them.
    """

    section: SourceSection
    key: str
    number: int
    names: Names
    topics: Callable[[Record], Topics]
    taken: Layout | None = None
    _filled: Callable[[Record], tuple[str, str]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.section.prompt is not None:
            prompt = template(f"{self.key}.prompt", self.section.prompt, self.names)
            completion = template(f"{self.key}.completion", str(self.section.completion), self.names)
            self._filled = lambda row: (prompt(row), completion(row))

    def __call__(self, row: Record) -> Made:
        """The examples of a row; in an example's place stands what it lacks.

        Raises TopicLoraError for a row that does not fit the section, or not the format of the rows before.
        """
        try:
            weight = loss_weight(row, self.section, self.key, self.names)
            made = self._made(row)
        except MissingValue as error:
            return [error]
        if weight == 1:
            return made
        return [
            each if isinstance(each, MissingValue) else replace(each, loss_weight=weight * each.loss_weight)
            for each in made
        ]

    def _made(self, row: Record) -> Made:
        if self._filled is not None:
            return [as_row(*self._filled(row), topics=self.topics(row), source=self.number)]
        row = with_chats(row)
        if self.section.messages is not None:
            return self._of_messages(row, self.section.messages)
        return self._of_format(row)

    def _of_messages(self, row: Record, column: str) -> Made:
        if column not in row:
            self.names.sought(column, f"{self.key}.messages")
            raise MissingValue(column)
        style = self.section.format if self.section.format in ("openai", "sharegpt") else "any"
        return self._talk(row, Layout(self.section.format, (column,), style), f"{self.key}.messages")

    def _of_format(self, row: Record) -> Made:
        if self.taken is None:
            self.taken = layout_of(row, self.section.format)
        if self.taken is None and (name := empty_chat(row)) is not None:
            raise MissingValue(name)
        if self.taken is None:
            raise refuse_unknown_format(self.key, self.section.source, self.section.format, list(row))
        key = f"{self.key}.format"
        asked, *answered = (row.get(name) for name in self.taken.columns)
        if self.taken.format != "completion" or isinstance(asked, list) or any(map(style_of, answered)):
            return self._talk(row, self.taken, key)
        messages_of(row, self.taken, key)  # a row of another format is an error there
        prompt, completion = (str(written(row[name])) for name in self.taken.columns)
        return [as_row(prompt, completion, topics=self.topics(row), source=self.number)]

    def _talk(self, row: Record, layout: Layout, key: str) -> Made:
        column, messages = messages_of(row, layout, key)
        turns = self.section.turns or ("last" if self.section.messages else "all")
        found = conversations(column, messages, every=turns == "all")
        tags, tools = self.topics(row), tools_of(row, key)
        return [
            each if isinstance(each, MissingValue) else _example(each, tags, tools, self.number, turns == "together")
            for each in found
        ]


def examples_of(
    section: SourceSection, *, key: str, number: int, known_topics: Collection[str] | None, names: Names
) -> Examples:
    """What makes examples of the rows of source `number`.

    Raises TopicLoraError for a template that does not parse. Columns that rows do not have are noted in `names`.
    """
    return Examples(section, key, number, names, topics_of(section, key=key, known=known_topics, names=names))


def loss_weight(row: Record, section: SourceSection, key: str, names: Names) -> float:
    """A row's weight in the loss; raises MissingValue and TopicLoraError for a column without one."""
    if not isinstance(section.loss_weight, WeightColumn):
        return section.loss_weight
    column = section.loss_weight.column
    if column not in row:
        names.sought(column, f"{key}.loss_weight.column")
    if isinstance(row.get(column), Missing) or column not in row:
        raise MissingValue(column)
    try:
        weight = number(row[column])
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight < math.inf:
        raise TopicLoraError(
            f"{key}.loss_weight: the column {column!r} holds {row[column]!r}.", "Weights are numbers from 0."
        )
    return weight


def plain_text(turns: Sequence[Turn], tools: str = "") -> str:
    """A conversation as text without any chat template: "User: ..." and so on, a blank line between turns."""
    said = [f"{turn.role.capitalize()}: {turn.text}" for turn in turns]
    return "\n\n".join([f"Tools: {tools}", *said] if tools else said)


def asked_by(before: Sequence[Turn], tools: str = "") -> str:
    """What a text encoder reads of the turns before an answer."""
    return f"{plain_text(before, tools)}\n\n{_OPENED}" if before or tools else ""


def _example(turns: Sequence[Turn], topics: Topics, tools: str, number: int, together: bool) -> Row:
    first = next(place for place, turn in enumerate(turns) if turn.role == ASSISTANT) if together else len(turns) - 1
    before, (answer, *after) = turns[:first], turns[first:]
    prompt = asked_by(before, tools) or _OPENED * together
    completion = "\n\n".join([answer.text, *([plain_text(after)] if after else [])])
    keys = {"topics": topics, "turns": tuple(turns), "source": number, "tools": tools, "together": together}
    # The weights of turns that are trained on together stay with them.
    return as_row(prompt, completion, loss_weight=1.0 if together else turns[-1].weight, **keys)
