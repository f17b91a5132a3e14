"""From a name or a YAML file, plus `--set a.b=value`, to a checked Recipe, with one clear line when it is wrong."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.methods import DEFAULT, METHODS, change_method, fill_in
from topiclora_cli.recipe.schema import Recipe

_HERE = Path(__file__).resolve().parent.parent


def bundled_recipes() -> dict[str, Path]:
    """Recipes shipped with topiclora, by name: inside the package when installed, beside it in a checkout."""
    installed = _HERE / "recipes"
    folder = installed if installed.is_dir() else _HERE.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Path of a recipe given as a file or as a bundled name; raises TopicLoraError when there is neither."""
    path = Path(name)
    if path.is_file():
        return path
    bundled = bundled_recipes()
    if name in bundled:
        return bundled[name]
    raise TopicLoraError(f"No recipe {name!r}: neither a file nor a bundled recipe.", nearest(name, bundled))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read, override and check a recipe.

    `overrides` are `dotted.key=value` strings whose values are YAML. Raises TopicLoraError naming file, key and fix.
    """
    path = find_recipe(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TopicLoraError(f"{path} is not valid YAML: {_one_line(error)}.", "Mend the file.") from None
    if not isinstance(values, dict):
        raise TopicLoraError(f"{path} is not a recipe: its top level must be a mapping.", "See: topiclora recipes show")
    return build_recipe(with_overrides(values, map(parse_override, overrides)), where=str(path))


def build_recipe(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Check a nested mapping; raises TopicLoraError naming `where`, the key and the nearest valid one."""
    try:
        return Recipe.model_validate(fill_in(values))
    except ValidationError as error:
        raise _explain(error, where) from None


def with_overrides(values: Mapping[str, Any], overrides: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of nested `values` with each dotted key set; raises TopicLoraError where a key runs through a scalar."""
    changes = dict(overrides)
    method = changes.get("adapter.method")
    result = deepcopy(dict(values))
    if method is not None:
        # First, so that the other changes are made to its values, in whatever order they come.
        result = change_method(result, method, _untouched(values))
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            if isinstance(node, dict) and node.get(parent) is None:
                node[parent] = {}
            node = node[_place(key, parent, node)]
            if not isinstance(node, dict | list):
                raise TopicLoraError(f"--set {key}: {parent!r} is a value, not a section.", "Check the dotted key.")
        node[_place(key, last, node)] = value
    return result


def parse_override(text: str) -> tuple[str, Any]:
    """`dotted.key=value`, whose value is YAML, as a pair; raises TopicLoraError where the text has another form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise TopicLoraError(f"--set {text!r} is not of the form key=value.", "Example: --set train.max_steps=20")
    try:
        return key.strip(), _scientific(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise TopicLoraError(f"--set {key}: {value!r} is not a YAML value ({_one_line(error)}).") from None


def with_experts(recipe: Recipe, number: int) -> Recipe:
    """The recipe with a number of experts in place of its own, or of `auto`."""
    values = with_overrides(recipe.model_dump(), [("adapter.num_experts", number)])
    return build_recipe(values, where="adapter.num_experts: auto")


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _untouched(values: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe that the method of `values` makes by itself, or the default method if that one is unknown."""
    method = (values.get("adapter") or {}).get("method", DEFAULT)
    adapter: dict[str, Any] = {"method": method if method in METHODS else DEFAULT}
    if adapter["method"] == "xlora":
        adapter["init_from"] = ["-"]
    return Recipe.model_validate(fill_in({"name": "-", "model": {"name": "-"}, "adapter": adapter})).model_dump()


def _scientific(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; a person who types it means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _place(key: str, part: str, node: dict[str, Any] | list[Any]) -> Any:
    """What a part of a dotted key stands for: a name, or the number of an item in a list, the first being 0."""
    if isinstance(node, dict):
        return part
    if part.isdigit() and int(part) < len(node):
        return int(part)
    raise TopicLoraError(f"--set {key}: no item {part!r} in a list of {len(node)}.", "Count from 0.")


def _explain(error: ValidationError, where: str) -> TopicLoraError:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return TopicLoraError(f"{where}: unknown key {key!r}.", nearest(location[-1], known))
    if first["type"] == "missing":
        return TopicLoraError(f"{where}: the key {key!r} is missing.", "Add it; see: topiclora recipes show quickstart")
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
    return TopicLoraError(f"{where}: {key or 'recipe'}: {message}{given}.", "")


def _fields_at(location: list[str]) -> list[str]:
    model: Any = Recipe
    for part in location:
        if part not in model.model_fields:
            continue  # the number of an item in a list, or which kind of a union
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
