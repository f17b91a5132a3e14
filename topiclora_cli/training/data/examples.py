"""How a source's row becomes examples: by templates, or by the turns of a conversation."""

from collections.abc import Callable, Collection
from typing import Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.data import SourceSection
from topiclora_cli.training.data.row import ASSISTANT, Row
from topiclora_cli.training.data.templates import Record, template
from topiclora_cli.training.data.topics import topics_of


def examples_of(
    section: SourceSection, *, key: str, number: int, known_topics: Collection[str] | None
) -> Callable[[Record], list[Row]]:
    """A function from a row of source `number` to its examples: one, or one of every turn of the assistant's.

    Raises TopicLoraError for a template that does not parse; the function, for a row that does not fit the section.
    """
    topics = topics_of(section, key=key, known=known_topics)
    if section.messages is not None:
        column, every = section.messages, section.turns == "all"

        def converse(record: Record) -> list[Row]:
            tags = topics(record)
            return [_example(turns, tags, number) for turns in _conversations(key, column, record, every)]

        return converse
    prompt = template(f"{key}.prompt", str(section.prompt))
    completion = template(f"{key}.completion", str(section.completion))
    return lambda record: [
        Row(prompt(record).rstrip(), " " + completion(record).strip(), topics(record), source=number)
    ]


def plain_text(turns: tuple[tuple[str, str], ...]) -> str:
    """A conversation as text without any chat template: "User: ..." and so on, a blank line between turns."""
    return "\n\n".join(f"{role.capitalize()}: {content}" for role, content in turns)


def _example(turns: tuple[tuple[str, str], ...], topics: tuple[str, ...], number: int) -> Row:
    *before, (_, answer) = turns
    prompt = f"{plain_text(tuple(before))}\n\n{ASSISTANT.capitalize()}:" if before else ""
    return Row(prompt, " " + answer.strip(), topics, turns=turns, source=number)


def _conversations(key: str, column: str, record: Record, every: bool) -> list[tuple[tuple[str, str], ...]]:
    """The messages up to each turn of the assistant's, or up to the last; none where the assistant says nothing."""
    if column not in record:
        raise TopicLoraError(f"{key}.messages names a column {column!r} that does not exist.", nearest(column, record))
    turns = tuple(_turn(key, column, message) for message in record[column] or ())
    ends = [place + 1 for place, (role, _) in enumerate(turns) if role == ASSISTANT]
    return [turns[:end] for end in (ends if every else ends[-1:])]


def _turn(key: str, column: str, message: Any) -> tuple[str, str]:
    try:
        return str(message["role"]), str(message["content"])
    except (TypeError, KeyError):
        raise TopicLoraError(
            f"{key}.messages: the column {column!r} holds something other than messages: {str(message)[:60]!r}.",
            "Each row needs a list of {role, content}.",
        ) from None
