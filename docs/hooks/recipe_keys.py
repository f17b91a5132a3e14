"""The recipe reference: what `topiclora recipes keys` says, as a page."""

from collections.abc import Iterator

from topiclora_cli.recipe.keys import Key, recipe_keys

INTRODUCTION = """# Recipe

Every key of a recipe, as `topiclora recipes keys` lists them. A recipe is a YAML file of these sections; only `name`
and `model.name` must be given, and a key that nobody knows is an error. Any key can be set on the command line, too:
`--set train.epochs=2`. Where a method brings a value of its own ([methods](methods.md)), that comes before the default;
what the default method brings is said here. `topiclora recipes schema` prints all of this as a JSON schema for your
editor.
"""


def recipe_page() -> str:
    """The page: a heading for each section, an entry for each key."""
    return "\n".join([INTRODUCTION, *(line for key in recipe_keys() for line in _lines(key))])


def _lines(key: Key) -> Iterator[str]:
    if key.is_section:
        yield f"\n{'#' * min(3, 2 + key.name.count('.'))} {key.name}\n\n{key.meaning}\n"
        return
    yield f"\n`{key.name}` <small>{'; '.join(_facts(key))}</small>"
    yield f":   {key.meaning}\n"


def _facts(key: Key) -> Iterator[str]:
    yield key.values.replace("|", "or")
    if key.required:
        yield "must be given"
    elif key.default:
        yield f"default `{key.default}`".replace("`null`", "unset")
    if key.preset:
        yield f"the default method brings `{key.preset}`"
    if key.methods:
        yield f"of {', '.join(key.methods)}"
