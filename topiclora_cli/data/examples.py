"""How a source's row becomes examples: by templates, or by the turns of a conversation."""

from collections.abc import Callable, Collection, Sequence

from topiclora_cli.data.conversations import Turn, conversations
from topiclora_cli.data.missing import MissingValue, Names
from topiclora_cli.data.row import ASSISTANT, Row, as_row
from topiclora_cli.data.templates import Record, template
from topiclora_cli.data.topics import Topics, topics_of
from topiclora_cli.recipe.data import SourceSection

Made = list[Row | MissingValue]


def examples_of(
    section: SourceSection, *, key: str, number: int, known_topics: Collection[str] | None, names: Names
) -> Callable[[Record], Made]:
    """A function from a row of source `number` to its examples: one, or one of every turn of the assistant's.

    In an example's place stands what it lacks. Raises TopicLoraError for a template that does not parse; the function,
    for a row that does not fit the section. Columns that rows do not have are noted in `names`.
    """
    topics = topics_of(section, key=key, known=known_topics, names=names)
    if section.messages is not None:
        return _of_messages(section, key, number, topics, names)
    prompt = template(f"{key}.prompt", str(section.prompt), names)
    completion = template(f"{key}.completion", str(section.completion), names)

    def fill_in(record: Record) -> Made:
        try:
            return [as_row(prompt(record), completion(record), topics=topics(record), source=number)]
        except MissingValue as error:
            return [error]

    return fill_in


def _of_messages(
    section: SourceSection, key: str, number: int, topics: Callable[[Record], Topics], names: Names
) -> Callable[[Record], Made]:
    column, every = str(section.messages), section.turns == "all"

    def converse(record: Record) -> Made:
        if column not in record:
            names.sought(column, f"{key}.messages")
        if not record.get(column):
            return [MissingValue(column)] if record.get(column) in (None, "") else []
        found = conversations(key, column, record[column], every=every)
        tags = topics(record)
        return [turns if isinstance(turns, MissingValue) else _example(turns, tags, number) for turns in found]

    return converse


def plain_text(turns: Sequence[Turn]) -> str:
    """A conversation as text without any chat template: "User: ..." and so on, a blank line between turns."""
    return "\n\n".join(f"{role.capitalize()}: {content}" for role, content in turns)


def asked_by(before: Sequence[Turn]) -> str:
    """What a text encoder reads of the turns before an answer."""
    return f"{plain_text(before)}\n\n{ASSISTANT.capitalize()}:" if before else ""


def _example(turns: Sequence[Turn], topics: Topics, number: int) -> Row:
    *before, (_, answer) = turns
    return as_row(asked_by(before), answer, topics=topics, turns=tuple(turns), source=number)
