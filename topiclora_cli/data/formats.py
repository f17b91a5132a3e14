"""The formats that people have their data in, told by the columns of a row, and a row of each as turns or as two texts.

sharegpt: `conversations` of {from, value}, with `system` and `tools`. openai: `messages` of {role, content}, with
`tools`. alpaca: instruction, input, output, with `system` and `history`, in LLaMA-Factory's reading. completion: two
columns of text, or of messages, as TRL has them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topiclora_cli.data.calls import tools_in
from topiclora_cli.data.conversations import ChatColumn, Style, style_of
from topiclora_cli.data.missing import Missing, MissingValue
from topiclora_cli.data.row import ASSISTANT
from topiclora_cli.data.templates import Record
from topiclora_cli.data.written import Cell, written
from topiclora_cli.errors import TopicLoraError

FORMATS = {
    "sharegpt": "conversations: [{from, value}]",
    "openai": "messages: [{role, content}]",
    "alpaca": "instruction, input, output",
    "completion": "prompt, completion",
}
_CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("input", "output"))
_ANSWERS, _CONTEXTS = ("output", "response"), ("input", "context")
_PLACES = {"images": "<image>", "image": "<image>", "videos": "<video>", "video": "<video>", "audios": "<audio>"}
_OVERVIEW = "; ".join(f"{name} ({columns})" for name, columns in FORMATS.items())


@dataclass(frozen=True)
class Layout:
    """A format, and the columns that a source has it in; style: of its messages."""

    format: str
    columns: tuple[str, ...]
    style: Style = "any"

    def __str__(self) -> str:
        return f"{self.format} ({', '.join(self.columns)})"


def layout_of(row: Record, wanted: str) -> Layout | None:
    """The format of a row, `wanted` or, for `auto`, the first that its columns are of; None where they are of none."""
    found = (find(row) for name, find in _FINDERS.items() if wanted in ("auto", name))
    return next((layout for layout in found if layout is not None), None)


def with_chats(row: Record) -> Record:
    """The row of a CSV file with lists of messages where cells hold them as JSON; any other as it is."""
    read = {name: _json_list(value) for name, value in row.items() if isinstance(value, Cell)}
    chats = {name: value for name, value in read.items() if style_of(value)}
    return {**row, **chats} if chats else row


def empty_chat(row: Record) -> str | None:
    """The column of a row that would hold its messages, had it any."""
    return next((name for name in _CHATS if name in row and not row[name]), None)


def refuse_unknown_format(key: str, source: str | None, wanted: str, columns: Sequence[str]) -> TopicLoraError:
    """The error for a row of none of the formats, or not of the one `wanted`; `key` is its source's place."""
    what = f"is not in the format {wanted}" if wanted != "auto" else "is in none of the known formats"
    return TopicLoraError(
        f"{key}.source {source!r} {what}; its columns: {', '.join(columns)}.",
        f"Formats: {_OVERVIEW}. Or set {key}.prompt and {key}.completion, or {key}.messages.",
    )


def messages_of(row: Record, layout: Layout, key: str) -> tuple[ChatColumn, list[Any]]:
    """The messages of a row and where they come from; none where there is no conversation.

    Raises MissingValue for a row without them, and TopicLoraError for one of another format and for one with pictures.
    """
    wanted = layout.columns if layout.format != "alpaca" else _needed(row, layout.columns)
    if (lacking := next((name for name in wanted if _absent(row.get(name))), None)) is not None:
        other = layout_of(row, "auto")
        if lacking not in row and other is not None and other.columns != layout.columns:
            raise TopicLoraError(
                f"{key}: this row is {other}, those before are {layout}.", "Give one format to all rows of a source."
            )
        raise MissingValue(lacking)
    column, messages = ChatColumn(key, layout.columns[0], layout.style), _as_messages(row, layout)
    for media, mark in _PLACES.items():
        if row.get(media) and mark in str(messages):
            raise TopicLoraError(
                f"{key}: the text shows what is in the column {media!r} ({mark}); only text is trained on.",
                "Leave such rows out by filter.",
            )
    return column, messages


def tools_of(row: Record, key: str) -> str:
    """The tools of a row as JSON, "" for none; raises TopicLoraError for what is no tool."""
    try:
        return tools_in(row.get("tools") or row.get("functions") or "")
    except ValueError as error:
        raise TopicLoraError(
            f"{key}: the column 'tools' cannot be read: {error}.", "Each is {name, description, parameters}."
        ) from None


def _json_list(cell: Cell) -> Any:
    try:
        return json.loads(cell) if cell.lstrip().startswith("[") else None
    except ValueError:
        return None


def _as_messages(row: Record, layout: Layout) -> list[Any]:
    if layout.format == "alpaca":
        return _alpaca(row, layout)
    roles = ("user", ASSISTANT) if layout.format == "completion" else (None,)
    parts = [_part(row[name], role) for name, role in zip(layout.columns, roles, strict=True)]
    messages = [message for part in parts for message in part]
    if layout.format == "sharegpt" and row.get("system") and not _begins_with_system(messages):
        return [{"from": "system", "value": row["system"]}, *messages]
    return messages


def _part(value: Any, role: str | None) -> list[Any]:
    """The messages of one column; a text beside a column of them is what its role says."""
    if role is not None and isinstance(value, str):
        return [{"role": role, "content": value}]
    return value if isinstance(value, list) else [value]


def _begins_with_system(messages: list[Any]) -> bool:
    return bool(messages) and isinstance(messages[0], Mapping) and messages[0].get("from") == "system"


def _absent(value: Any) -> bool:
    return value is None or isinstance(value, Missing) or value == ""


def _needed(row: Record, columns: Sequence[str]) -> tuple[str, str]:
    """What a row of alpaca's columns cannot do without: an instruction, or an input in its place, and an answer."""
    instruction, *context, answer = columns
    filled = [name for name in context if instruction in row and not _absent(row.get(name))]
    return (filled[0] if filled and _absent(row.get(instruction)) else instruction), answer


def _alpaca(row: Record, layout: Layout) -> list[Any]:
    instruction, *rest, answer = layout.columns
    asked = "\n".join(str(written(row[name])) for name in (instruction, *rest) if row.get(name))
    said = [*_earlier(row.get("history") or []), ("user", asked), (ASSISTANT, str(written(row[answer])))]
    if row.get("system"):
        said.insert(0, ("system", str(written(row["system"]))))
    return [{"role": role, "content": content} for role, content in said]


def _earlier(history: Any) -> list[tuple[str, str]]:
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise TopicLoraError(
            f"the column 'history' holds something other than pairs: {str(history)[:60]!r}.",
            "It is a list of [question, answer].",
        )
    return [turn for asked, answer in history for turn in (("user", asked), (ASSISTANT, answer))]


def _chat(row: Record, style: Style) -> Layout | None:
    known = [name for name in _CHATS if style_of(row.get(name)) == style]
    pair = _of_completion(row)
    halves = pair.columns if pair is not None else ()
    others = [name for name, value in row.items() if style_of(value) == style and name not in halves]
    found = known[:1] or (others if len(others) == 1 else [])
    return Layout(style, tuple(found), style) if found else None


def _of_alpaca(row: Record) -> Layout | None:
    answer = next((name for name in _ANSWERS if name in row), None)
    if "instruction" not in row or answer is None:
        return None
    context = [name for name in _CONTEXTS if name in row][:1]
    return Layout("alpaca", ("instruction", *context, answer))


def _of_completion(row: Record) -> Layout | None:
    return next((Layout("completion", pair) for pair in _PAIRS if all(name in row for name in pair)), None)


_FINDERS = {
    "sharegpt": lambda row: _chat(row, "sharegpt"),
    "openai": lambda row: _chat(row, "openai"),
    "alpaca": _of_alpaca,
    "completion": _of_completion,
}
