"""Results as JSON files, each with the version of its format: one reader and one writer for all kinds.

Files of 0.1 have no version; they count as format 1 and are read as what they mean today.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import read_json, write_text
from topiclora_cli.runs.results.ablation import CellFailure, GridScores
from topiclora_cli.runs.results.bundle import Bundle
from topiclora_cli.runs.results.evaluation import EvalSummary, QuestionScores
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.graph import GraphReport
from topiclora_cli.runs.results.models import ModelScores
from topiclora_cli.runs.results.routing import ProbeStudy, RoutingStudy
from topiclora_cli.runs.results.search import Searches

FORMAT = 2
T = TypeVar("T")


@dataclass(frozen=True)
class _Kind:
    """What makes a kind of results again where its file is no use, how to read it as format 1 had it, and what has
    got another name."""

    hint: str
    upgrade: Callable[[Any], Any]
    renamed: Callable[[Any], Any] = lambda values: values


Result = (
    GraphReport
    | EvalSummary
    | QuestionScores
    | Export
    | Bundle
    | ModelScores
    | GridScores
    | Searches
    | CellFailure
    | RoutingStudy
    | ProbeStudy
)


def write_result(path: str | Path, value: Result) -> None:
    """Replace the file with the value as JSON, in one step: a line for each record of its lists and mappings."""
    fields = (f"{_line(name)}: {_lines(each)}" for name, each in {"format": FORMAT, **vars(value)}.items())
    write_text(path, "{\n" + ",\n".join(fields) + "\n}\n")


def _lines(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        return "{\n" + ",\n".join(f"{_line(str(key))}: {_line(each)}" for key, each in value.items()) + "\n}"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(map(_line, value)) + "\n]"
    return _line(value)


def _line(value: Any) -> str:
    # With an indent json does without its encoder in C, and asdict copies all of a grid's numbers first.
    return json.dumps(value, ensure_ascii=False, default=vars)


def read_result(path: str | Path, kind: type[T], *, hint: str | None = None) -> T:
    """The value of that kind in the file; hint: what to do where it is no use, if not to run its stage again.

    Raises TopicLoraError where the file is missing, damaged, or written by a newer topiclora.
    """
    known = _KINDS[kind]
    hint = hint or known.hint
    values = read_json(path, hint=hint)
    values = known.upgrade(values) if version_of(values, path) == 1 else values
    return decoded(known.renamed(values), kind, path, hint)


def version_of(values: Any, path: str | Path) -> int:
    """The format of what was read from a file; raises TopicLoraError for one that this topiclora does not know."""
    version = values.get("format", 1) if isinstance(values, Mapping) else 1
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise TopicLoraError(
            f"{path} has the format {version!r}; this topiclora reads up to {FORMAT}.", "Update topiclora to read it."
        )
    return version


def decoded(values: Any, kind: type[T], path: str | Path, hint: str) -> T:
    """Plain values as a dataclass; raises TopicLoraError, which names the file and the first key that is wrong."""
    from pydantic import ValidationError

    try:
        value: T = _adapter(cast(Any, kind)).validate_python(values)
        return value
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise TopicLoraError(f"{path} is damaged ({where}: {first['msg']}).", hint) from None


@cache
def _adapter(kind: type[object]) -> Any:
    from pydantic import TypeAdapter  # what only prints help reads no file

    return TypeAdapter(kind)


def _graph(values: Any) -> Any:
    # What an early report did not say.
    missing = dict.fromkeys(("shape", "links", "comparison", "attribution", "choice")) | {"dead_experts": ()}
    return {**missing, **values} if isinstance(values, Mapping) else values


def _named_later(values: Any) -> Any:
    return {"name": "", **values} if isinstance(values, Mapping) else values


def _in_use(values: Any) -> Any:
    routing = values.get("routing") if isinstance(values, Mapping) else None
    if not isinstance(routing, Mapping) or "effective_experts" not in routing:
        return values
    # The name is that of a router's experts in training, which is another measure.
    names = {"effective_experts": "experts_in_use"}
    return {**values, "routing": {names.get(key, key): value for key, value in routing.items()}}


def _cells(values: Any) -> Any:
    return {"cells": values}


def _as_it_is(values: Any) -> Any:
    return values


_KINDS: Mapping[type, _Kind] = {
    GraphReport: _Kind("Run build-graph again.", _graph),
    EvalSummary: _Kind("Run eval again.", _named_later, _in_use),
    QuestionScores: _Kind("Run eval again.", _as_it_is),
    Export: _Kind("Run merge again.", _as_it_is),
    Bundle: _Kind("Run merge again.", _as_it_is),
    ModelScores: _Kind("Run eval again.", _as_it_is),
    GridScores: _Kind("Run ablate again.", _cells),
    Searches: _Kind("Delete it, and run ablate again.", lambda values: values),
    CellFailure: _Kind("Delete it.", _as_it_is),
    RoutingStudy: _Kind("Run eval --routing again.", _as_it_is),
    ProbeStudy: _Kind("Run eval --probe again.", _as_it_is),
}
