"""Ready definitions of well-known training sets: where they lie and how their rows become examples."""

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from topiclora_cli.errors import nearest


@lru_cache(maxsize=1)
def source_definitions() -> Mapping[str, Mapping[str, Any]]:
    """Keys of a recipe's source by the definition's name, from the packaged sources.yaml."""
    text = resources.files(__package__).joinpath("sources.yaml").read_text(encoding="utf-8")
    return {name: keys for name, keys in yaml.safe_load(text).items() if not name.startswith("_")}


def fill_in_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """A source's keys, completed by the definition that its `name`, or else its `source`, names.

    Raises ValueError with the nearest names for a `name` that is none, and for a definition that needs a source.
    """
    known = source_definitions()
    name, source = values.get("name"), values.get("source")
    if name is None and source in known:
        name, values = source, {key: value for key, value in values.items() if key != "source"}
    if name is None:
        return dict(values)
    if name not in known:
        raise ValueError(f"no source definition is called {name!r}. {nearest(str(name), known)}")
    filled = {**known[name], **values, "name": name}
    if values.get("messages"):
        # A copy in another form: the definition's templates would be in the way.
        filled = {**filled, "prompt": values.get("prompt"), "completion": values.get("completion")}
    if filled.get("source") is None:
        raise ValueError(f"the definition {name!r} is on no hub; set source to a file or folder of its columns")
    return filled
