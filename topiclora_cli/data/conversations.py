"""The messages of a chat as turns of known roles with plain text, whoever wrote them down.

Read are {role, content}, as OpenAI's and Hugging Face's sets have it, and ShareGPT's {from, value}; a content may be a
list of parts, of which those of text are joined. Calls of tools are kept apart from the text (data/calls.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from topiclora_cli.data.calls import calls_in
from topiclora_cli.data.missing import Missing, MissingValue
from topiclora_cli.data.row import ASSISTANT, Turn
from topiclora_cli.data.written import number, written
from topiclora_cli.errors import TopicLoraError

Style = Literal["any", "openai", "sharegpt"]
_ROLES = ("system", "developer", "user", ASSISTANT, "tool", "function", "ipython")
_ALIASES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), ASSISTANT),
    "observation": "tool",
}
_CALLS = ("tool_calls", "function_call", "tool_call")
_TEXTS = ("text", "input_text", "output_text")
_KEYS = {"openai": ("role", "content"), "sharegpt": ("from", "value")}


@dataclass(frozen=True)
class ChatColumn:
    """Where messages come from, for what is said of them: the recipe's key that asks, the column, and their style."""

    key: str
    name: str
    style: Style = "any"

    def error(self, message: str, hint: str) -> TopicLoraError:
        """What is wrong with the column's messages."""
        return TopicLoraError(f"{self.key}: the column {self.name!r} {message}.", hint)


def conversations(column: ChatColumn, messages: Iterable[Any], *, every: bool) -> list[list[Turn] | MissingValue]:
    """The turns up to each of the assistant's, or up to the last; none where the assistant does not speak.

    A turn of weight 0 is none to end with. Instead of turns of which one has no text: what is missing. Raises
    TopicLoraError for what is no message, a role that is unknown, and contents other than text.
    """
    found: list[list[Turn] | MissingValue] = []
    before: list[Turn] = []
    trouble: MissingValue | None = None
    for message in messages:
        role, turn = _role(column, message), None
        try:
            turn = _turn(column, role, message)
            before.append(turn)
        except MissingValue as error:
            trouble = trouble or error
        if role == ASSISTANT and (turn is None or turn.weight > 0):
            found.append(trouble or list(before))
    return found if every else found[-1:]


def style_of(messages: Any) -> Style | None:
    """How a list of messages is written, told by its first; None for anything else."""
    first = messages[0] if isinstance(messages, list) and messages else None
    if not isinstance(first, Mapping):
        return None
    return "sharegpt" if first.get("from") else "openai" if first.get("role") else None


def _role(column: ChatColumn, message: Any) -> str:
    if not isinstance(message, Mapping) or not (message.get("role") or message.get("from")):
        raise column.error(
            f"holds something other than messages: {str(message)[:60]!r}",
            "Each row needs a list of {role, content} or of {from, value}.",
        )
    if column.style != "any" and not message.get(_KEYS[column.style][0]):
        other = "openai" if column.style == "sharegpt" else "sharegpt"
        raise column.error(
            f"has a message of {' and '.join(_KEYS[other])} where {column.style}'s have "
            f"{' and '.join(_KEYS[column.style])}",
            "Give one format to all rows of a source.",
        )
    said = str(message.get("role") or message.get("from")).strip()
    if said.lower() in _CALLS:
        return ASSISTANT
    role = _ALIASES.get(said.lower(), said.lower())
    if role not in _ROLES:
        raise column.error(
            f"has a message of the unknown role {said!r}", f"Known: {', '.join([*_ROLES, *_ALIASES, *_CALLS[1:]])}."
        )
    return role


def _turn(column: ChatColumn, role: str, message: Mapping[str, Any]) -> Turn:
    content = message.get("content")
    if "value" in message and (content is None or isinstance(content, Missing)):
        content = message["value"]
    names = {key: str(message[key]) for key in ("name", "tool_call_id") if message.get(key)}
    weight = _weight(column, message)
    try:
        if str(message.get("role") or message.get("from")).strip().lower() in _CALLS:
            made = calls_in(content)
            if not made:
                raise MissingValue(f"{column.name}.content")
            return Turn(role, "", made, weight=weight, **names)
        calls = tuple(call for key in _CALLS if message.get(key) for call in calls_in(message[key]))
    except ValueError as error:
        raise column.error(f"has a call of a tool that cannot be read: {error}", _LEAVE_OUT) from None
    text = "" if calls and not content else _text(column, content)
    for kind in ("images", "videos", "audio", "audios"):
        if message.get(kind):
            raise _no_text(column, kind)
    return Turn(role, text, calls, weight=weight, **names)


def _weight(column: ChatColumn, message: Mapping[str, Any]) -> float:
    """OpenAI's weight of a message in the loss, 1 where it has none."""
    if message.get("weight") in (None, ""):
        return 1.0
    try:
        weight = number(message["weight"])
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise column.error(f"has a message of the weight {message['weight']!r}", "Weights are numbers from 0.")
    return weight


def _text(column: ChatColumn, content: Any) -> str:
    parts = content if isinstance(content, list) else [content]
    return "".join(_part(column, part) for part in parts)


def _part(column: ChatColumn, part: Any) -> str:
    if isinstance(part, Mapping) and {"type", "text"} & part.keys():
        kind = part.get("type") or "text"
        if kind not in _TEXTS:
            raise _no_text(column, str(kind))
        part = part.get("text")
    if part is None:
        raise MissingValue(f"{column.name}.content")
    try:
        return str(written(part))
    except TypeError as error:
        raise column.error(f"has a content without text: {error}", _LEAVE_OUT) from None


_LEAVE_OUT = "Mend it, or leave such rows out by filter."


def _no_text(column: ChatColumn, kind: str) -> TopicLoraError:
    return column.error(f"has a content of type {kind!r}; only text is trained on", "Leave such rows out by filter.")
