"""The messages of a chat as turns of known roles with plain text, whoever wrote them down.

Read are {role, content}, as OpenAI's and Hugging Face's sets have it, and ShareGPT's {from, value}; a content may be a
list of parts, of which those of text are joined.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from topiclora_cli.data.missing import MissingValue
from topiclora_cli.data.row import ASSISTANT
from topiclora_cli.data.written import written
from topiclora_cli.errors import TopicLoraError

Turn = tuple[str, str]
_ROLES = ("system", "developer", "user", ASSISTANT, "tool", "function", "ipython")
_ALIASES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), ASSISTANT),
    "observation": "tool",
}
_CALLS = ("tool_calls", "function_call")


def conversations(key: str, column: str, messages: Iterable[Any], *, every: bool) -> list[list[Turn] | MissingValue]:
    """The turns up to each of the assistant's, or up to the last; none where the assistant does not speak.

    Instead of turns of which one has no text, or calls a tool, which text alone cannot say: what is missing. Raises
    TopicLoraError for what is no message, a role that is unknown, and contents other than text.
    """
    found: list[list[Turn] | MissingValue] = []
    before: list[Turn] = []
    trouble: MissingValue | None = None
    for message in messages:
        role = _role(key, column, message)
        try:
            before.append((role, _text(key, column, message)))
        except MissingValue as error:
            trouble = trouble or error
        if role == ASSISTANT:
            found.append(trouble or list(before))
    return found if every else found[-1:]


def _role(key: str, column: str, message: Any) -> str:
    if not isinstance(message, Mapping) or not {"role", "from"} & message.keys():
        raise TopicLoraError(
            f"{key}.messages: the column {column!r} holds something other than messages: {str(message)[:60]!r}.",
            "Each row needs a list of {role, content} or of {from, value}.",
        )
    said = str(message.get("role") or message.get("from")).strip()
    if said.lower() in _CALLS:
        return ASSISTANT
    role = _ALIASES.get(said.lower(), said.lower())
    if role not in _ROLES:
        raise TopicLoraError(
            f"{key}.messages: the column {column!r} has a message of the unknown role {said!r}.",
            f"Known: {', '.join([*_ROLES, *_ALIASES])}.",
        )
    return role


def _text(key: str, column: str, message: Mapping[str, Any]) -> str:
    if any(message.get(call) for call in _CALLS) or message.get("from") in _CALLS:
        raise MissingValue(f"{column}: text of a tool call")
    content = message["content"] if "content" in message else message.get("value")
    parts = content if isinstance(content, list) else [content]
    return "".join(_part(key, column, part) for part in parts)


def _part(key: str, column: str, part: Any) -> str:
    if isinstance(part, Mapping):
        kind = part.get("type") or "text"
        if kind != "text":
            raise TopicLoraError(
                f"{key}.messages: the column {column!r} has a content of type {str(kind)!r}; only text is trained on.",
                "Leave such rows out by filter.",
            )
        part = part.get("text")
    if part is None:
        raise MissingValue(f"{column}.content")
    try:
        return str(written(part))
    except TypeError as error:
        raise TopicLoraError(
            f"{key}.messages: the column {column!r} has a content without text: {error}.",
            "Leave such rows out by filter.",
        ) from None
