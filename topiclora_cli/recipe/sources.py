"""Ready definitions of well-known training sets: where they lie and how their rows become examples."""

from collections.abc import Mapping
from functools import lru_cache
from glob import glob
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from topiclora_cli.errors import TopicLoraError, first_line, nearest

FILE = "sources_file"


@lru_cache(maxsize=1)
def source_definitions() -> Mapping[str, Mapping[str, Any]]:
    """Keys of a recipe's source by the definition's name, from the packaged sources.yaml."""
    return _named(yaml.safe_load(resources.files(__package__).joinpath("sources.yaml").read_text(encoding="utf-8")))


def fill_in_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """A source's keys, completed by the definition that its `name`, or else its `source`, names.

    Raises ValueError with the nearest names for a `name` that is none, and for a definition that needs a source.
    """
    known = source_definitions()
    name, source = values.get("name"), values.get("source")
    if name is None and isinstance(source, str) and source in known:
        name, values = source, {key: value for key, value in values.items() if key != "source"}
    if name is None:
        return dict(values)
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"no source definition is called {name!r}. {nearest(str(name), known)}")
    filled = {**known[name], **values, "name": name}
    if values.get("messages"):
        # A copy in another form: the definition's templates would be in the way.
        filled = {**filled, "prompt": values.get("prompt"), "completion": values.get("completion")}
    if filled.get("source") is None:
        raise ValueError(f"the definition {name!r} is on no hub; set source to a file or folder of its columns")
    return filled


def with_own_sources(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's data section with the definitions of its `sources_file` in place of their names, and without that key.

    What is trained does not change with the file afterwards. An own definition comes before a ready one of its name,
    and may build on one by `name`; a relative path in it is seen from its file's folder, if something is there. Raises
    TopicLoraError for a file that cannot be read or is no mapping of names to keys.
    """
    rest = {key: value for key, value in data.items() if key != FILE}
    if data.get(FILE) is None:
        return rest
    own = _read(Path(str(data[FILE])))
    if isinstance(data.get("sources"), list):
        return {**rest, "sources": [_own(source, own) for source in data["sources"]]}
    return _own(rest, own)


def _own(source: Any, own: Mapping[str, Mapping[str, Any]]) -> Any:
    """A source's keys, completed by the own definition that it names, if it does."""
    if not isinstance(source, Mapping):
        return source
    key = next((key for key in ("name", "source") if str(source.get(key)) in own), None)
    if key is None:
        name, known = source.get("name"), {*own, *source_definitions()}
        if name is not None and str(name) not in known:
            raise TopicLoraError(f"No source definition is called {name!r}.", nearest(str(name), known))
        return source
    filled = {**own[str(source[key])], **{other: value for other, value in source.items() if other != key}}
    if source.get("messages"):
        filled = {**filled, "prompt": source.get("prompt"), "completion": source.get("completion")}
    return filled


def _read(path: Path) -> dict[str, dict[str, Any]]:
    where = f"data.{FILE} {str(path)!r}"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise TopicLoraError(f"{where} cannot be read: {reason}.", f"Looked for it from {Path.cwd()}.") from None
    if not isinstance(values, dict) or not all(isinstance(keys, dict) for keys in values.values()):
        raise TopicLoraError(f"{where} is no mapping of names to keys of a source.", "Example: mine: {source: a.jsonl}")
    own = _named(values)
    for name, keys in own.items():
        if (base := keys.get("name")) in own and base not in source_definitions():
            raise TopicLoraError(
                f"{where}: {name!r} builds on {base!r} of the same file by its key 'name'.",
                "Build on a ready definition, or leave that key out.",
            )
        source = str(keys.get("source") or "")
        beside = path.parent / source
        if source and (beside.exists() or glob(str(beside), recursive=True)):
            keys["source"] = str(beside.absolute())
    return own


def _named(values: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The definitions, without what is but an anchor for others."""
    return {str(name): keys for name, keys in values.items() if not str(name).startswith("_")}
