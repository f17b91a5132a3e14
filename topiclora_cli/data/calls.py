"""Tools that a conversation may use and the calls of them, from any of their spellings into the one of chat templates.

OpenAI's {"type": "function", "function": {"name", "arguments"}} and its older function_call, ShareGPT's and
LLaMA-Factory's {"name", "arguments"}, either also as JSON in a text. Tables of one type fill up what a call or a tool
does not have with nulls, which are left out, as TRL does.
"""

import json
from collections.abc import Mapping
from typing import Any

from topiclora_cli.data.missing import Missing
from topiclora_cli.data.written import as_json


def calls_in(value: Any) -> tuple[str, ...]:
    """The calls in one or a list of them, each as JSON of `name`, `arguments` and, where it has one, `id`.

    Raises ValueError for what is no call.
    """
    return tuple(_call(each) for each in _listed(value))


def tools_in(value: Any) -> str:
    """A list of tools as JSON in OpenAI's form, "" for none; raises ValueError for what is no tool."""
    tools = []
    for each in _listed(value):
        function = each.get("function", each) if isinstance(each, Mapping) else None
        if not isinstance(function, Mapping) or not function.get("name"):
            raise ValueError(f"{_shown(each)} is no tool with a name")
        tools.append({"type": "function", "function": _without_gaps(function)})
    return as_json(tools) if tools else ""


def _call(value: Any) -> str:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not function.get("name"):
        raise ValueError(f"{_shown(value)} has no name")
    arguments = function.get("arguments") or {}
    arguments = _decoded(arguments) if isinstance(arguments, str) else _without_gaps(arguments)
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of {function['name']} are {_shown(arguments)} and no object")
    own = {"id": str(value["id"])} if value.get("id") else {}
    return as_json({**own, "name": str(function["name"]), "arguments": arguments})


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = _decoded(value) if value.strip() else None
    if _absent(value):  # as tables write that there are none
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"{_shown(text)} is no JSON") from None


def _without_gaps(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_gaps(part) for key, part in value.items() if not _absent(part)}
    if isinstance(value, list | tuple):
        return [_without_gaps(part) for part in value if not _absent(part)]
    return value


def _absent(value: Any) -> bool:
    return value is None or isinstance(value, Missing)


def _shown(value: Any) -> str:
    return repr(str(value)[:60])
