"""From a name or a YAML file, plus `--set a.b=value`, to a checked Recipe, with one clear line when it is wrong."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.recipe.adapter import FIELDS, KINDS, every_key, layer_of
from topiclora_cli.recipe.fill import fill_in, idle_keys, said_keys
from topiclora_cli.recipe.loss import LOSS_KEYS
from topiclora_cli.recipe.methods import DEFAULT, METHODS
from topiclora_cli.recipe.overrides import no_section, one_line, parse_override, with_overrides
from topiclora_cli.recipe.schema import Recipe
from topiclora_cli.recipe.sources import with_own_sources
from topiclora_cli.recipe.spelling import respelt, respelt_changes
from topiclora_cli.recipe.synonyms import our_name
from topiclora_cli.recipe.yaml_text import read_yaml, write_yaml

SAID = "said"
_ABOUT_SAID = (
    "# What the recipe and --set have said; the rest of the above was filled in by the method, or is a default.\n"
    "# A value changed above counts as said.\n"
)
_NEUTRAL = Recipe.model_fields.keys()  # what is a section or a key at the top is meant there
_OF_VALUES = ("int_type", "float_type", "string_type", "bool_type", "literal_error")
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


def load_recipe(name: str, overrides: Iterable[str | tuple[str, Any]] = ()) -> Recipe:
    """Read, override and check a recipe: one that somebody wrote, or a resolved one that a run keeps.

    `overrides` are `dotted.key=value` strings whose values are YAML, or pairs of a key and a value that is taken as it
    is. Raises TopicLoraError naming file, key and fix.
    """
    path = find_recipe(name)
    return read_recipe(path.read_bytes(), overrides, where=str(path))


def read_recipe(content: bytes, overrides: Iterable[str | tuple[str, Any]] = (), *, where: str) -> Recipe:
    """As load_recipe, from what the file `where` holds."""
    try:
        values = read_yaml(content.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TopicLoraError(f"{where} is not valid YAML: {one_line(error)}.", "Mend the file.") from None
    if not isinstance(values, dict):
        raise TopicLoraError(
            f"{where} is not a recipe: its top level must be a mapping.", "See: topiclora recipes show"
        )
    values = respelt(values, where=where)
    pairs = [parse_override(text) if isinstance(text, str) else text for text in overrides]
    changes = respelt_changes(pairs, where="--set")
    if SAID in values or _written_out(values):
        return _build(_said_in(values), changes, where=where)
    # A setting that another method is to read is that method's matter.
    idle = _idle(values, values)
    still = _idle(values, with_overrides(values, changes)) if changes else idle
    _refuse({key: reason for key, reason in idle.items() if key in still}, values, where=where)
    return _build(values, changes, where=where)


def build_recipe(said: Mapping[str, Any], *, where: str, given: Mapping[str, Any] | None = None) -> Recipe:
    """Fill in what a nested mapping leaves open, and check it.

    Raises TopicLoraError naming `where`, the key and the nearest valid one, and for a key that means nothing among
    those `given` now, which are all unless told otherwise; any other such key is left out.
    """
    said = respelt(said, where=where)
    if isinstance(data := said.get("data"), Mapping):
        said = {**said, "data": with_own_sources(data)}
    now = said if given is None else given
    _refuse(_idle(now, said), now, where=where)
    try:
        return Recipe.model_validate(fill_in(said)).saying(to_jsonable_python(said))
    except ValidationError as error:
        raise _explain(error, where) from None


def altered(recipe: Recipe, changes: Iterable[tuple[str, Any]], *, where: str) -> Recipe:
    """The recipe as it would be, had its dotted keys been said otherwise: its method fills in anew what stays open.

    What was said before and means nothing any more is left out; raises TopicLoraError, as build_recipe does, where a
    change itself means nothing.
    """
    return _build(recipe.said, respelt_changes(changes, where=where), where=where, by=where)


def with_experts(recipe: Recipe, number: int) -> Recipe:
    """The recipe with a number of experts in place of its own, or of `auto`."""
    return altered(recipe, [("adapter.num_experts", number)], where="adapter.num_experts: auto")


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out, and below it what was said."""
    resolved, said = (write_yaml(part) for part in (recipe.model_dump(mode="json"), {SAID: recipe.said}))
    return f"{resolved}{_ABOUT_SAID}{said}"


def differences(one: Recipe, other: Recipe) -> dict[str, Any]:
    """What the other recipe says or fills in otherwise, by dotted key."""
    before, after = said_keys(_every_key(one)), said_keys(other.model_dump(mode="json"))
    return {key: value for key, value in after.items() if before.get(key, ...) != value}


def _every_key(recipe: Recipe) -> dict[str, Any]:
    """A resolved recipe with the keys of every kind of adapter; those that its own lacks have their defaults."""
    values = recipe.model_dump(mode="json")
    return {**values, "adapter": every_key(values["adapter"])}


def _build(said: Mapping[str, Any], changes: list[tuple[str, Any]], *, where: str, by: str = "--set") -> Recipe:
    """by: what the changes were said with."""
    changed = with_overrides(said, changes, where=by)
    return build_recipe(changed, where=where, given=with_overrides({}, changes, where=by))


def _refuse(idle: Mapping[str, str], said: Mapping[str, Any], *, where: str) -> None:
    for key, reason in idle.items():
        raise TopicLoraError(f"{where}: {key} {reason} (given: {said_keys(said)[key]!r}).", f"Leave {key} out.")


def _idle(said: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, str]:
    """Those of the said keys that nothing reads in the whole recipe, each with the reason."""
    given, idle = said_keys(said), idle_keys(whole)
    return {key: idle[key] for key, value in given.items() if key in idle and not _claims_nothing(key, value)}


def _claims_nothing(key: str, value: Any) -> bool:
    """Whether a value asks for nothing (null, 0, or false where that is the default): nobody misses it."""
    *sections, name = key.split(".")
    if sections == ["adapter"]:
        return value is None or (not value and FIELDS[name].default is not True)
    model: Any = Recipe
    for section in sections:
        model = model.model_fields[section].annotation
    return value is None or (not value and model.model_fields[name].default is not True)


def _written_out(values: Mapping[str, Any]) -> bool:
    """Whether a recipe was resolved, by a version that kept no record of what was said, or has lost it.

    An earlier version wrote the keys of all kinds of adapter, of which no method reads both of two; now a kind has all
    of its own.
    """
    adapter = values.get("adapter")
    return isinstance(adapter, dict) and (
        {"use_dora", "variant"} <= adapter.keys() or KINDS[layer_of(adapter)].model_fields.keys() <= adapter.keys()
    )


def _said_in(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a resolved recipe keeps as said, and what was changed in it by hand since, or is filled in otherwise now."""
    resolved = _with_scaling({key: value for key, value in stored.items() if key != SAID})
    said = stored.get(SAID)
    if not isinstance(said, dict):
        said = {key: resolved[key] for key in ("name", "model") if key in resolved}
        said["adapter"] = {"method": (resolved.get("adapter") or {}).get("method", DEFAULT)}
    while True:
        try:
            filled = said_keys(_every_key(Recipe.model_validate(fill_in(said))))
        except ValidationError:
            return resolved
        other = {key: value for key, value in said_keys(resolved).items() if filled.get(key, ...) != value}
        now = with_overrides(said, other.items())
        if now == said:
            return said
        said = now


def _with_scaling(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe with its law of scaling, which an earlier version had no key for; it scaled every expert."""
    adapter = resolved.get("adapter")
    method = METHODS.get(str(adapter.get("method", DEFAULT))) if isinstance(adapter, dict) else None
    if not isinstance(adapter, dict) or "scaling" in adapter or method is None or method.layer != "mixture":
        return dict(resolved)
    law = "sqrt" if adapter.get("use_rslora") else "expert"
    return {**resolved, "adapter": {**adapter, "scaling": law}}


def _explain(error: ValidationError, where: str) -> TopicLoraError:
    first = error.errors()[0]
    # A union also names which of its kinds was tried, list[str] for example.
    location = [str(part) for part in first["loc"] if "[" not in str(part)]
    if location and location[-1].removeprefix("constrained-") in ("str", "bool", "int", "float"):
        del location[-1]
    if location[0:1] == ["adapter"] and location[1:2] and location[1] in KINDS:
        del location[1]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = [*_fields_at(location[:-1]), *(LOSS_KEYS if location[:-1] == ["loss"] else ())]
        # Of a list of sources each has the keys of one.
        section = ".".join(location[:-1]).partition(".sources")[0]
        hint = f"{nearest(location[-1], known, meant=_meant(location))} See: topiclora recipes keys {section}"
        return TopicLoraError(f"{where}: unknown key {key!r}.", hint.rstrip())
    if first["type"] == "missing":
        return TopicLoraError(f"{where}: the key {key!r} is missing.", "Add it; see: topiclora recipes show quickstart")
    if isinstance(first["input"], dict) and first["type"] in _OF_VALUES:
        return no_section(key, where)
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "model_type":
        message = "a section, whose keys stand below it"
    given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
    hint = f"""If it is text, quote it: --set '{key}="..."'.""" if first["type"] == "string_type" else ""
    return TopicLoraError(f"{where}: {key or 'recipe'}: {message}{given}.", hint)


def _meant(location: list[str]) -> str | None:
    """The key that is meant where one of another section, or of another tool, is given."""
    name = location[-1]
    if ours := our_name(".".join(location)):
        return ours
    sections = [section for section in Recipe.model_fields if name in _fields_at([section]) and name not in _NEUTRAL]
    return f"{sections[0]}.{name}" if len(sections) == 1 else None


def _fields_at(location: list[str]) -> list[str]:
    if location == ["adapter"]:
        return list(FIELDS)
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
