"""Recipes and their keys in the terminal."""

import re
import textwrap
from typing import TYPE_CHECKING

from topiclora_cli.recipe import Recipe, find_recipe, load_recipe
from topiclora_cli.recipe.data import EMBEDDED
from topiclora_cli.recipe.keys import Key
from topiclora_cli.recipe.methods import DEFAULT

if TYPE_CHECKING:
    from rich.text import Text

_INDENT = "    "


def key_entry(key: Key, width: int) -> "Text":
    """A key's name, values and default, and below it what it means, in lines of at most `width` columns."""
    facts = [key.values, _default(key)] if not key.is_section else []
    if key.methods:
        facts.append(f"for {', '.join(key.methods)}")
    return _entry(key.name, ", ".join(facts), [key.meaning], width)


def _default(key: Key) -> str:
    if key.required:
        return "to be given"
    default = f"default {key.default}"
    return f"{default} ({DEFAULT}: {key.preset})" if key.preset else default


def recipe_entry(name: str, width: int) -> "Text":
    """What a bundled recipe trains, on what, what it needs, and the command at its head, which is one line to copy."""
    recipe = load_recipe(name)
    head = _comment(find_recipe(name).read_text(encoding="utf-8"))
    return _entry(name, "", [_about(recipe), f"Needs {needs(head)}."], width).append(f"\n{_INDENT}$ {_command(head)}")


def needs(head: str) -> str:
    """What the comment at a recipe's head says that it needs, up to the end of that clause; empty if nothing."""
    found = re.search(r"\bNeeds (.+?)(?=[;:]|\.(?:\s|$))", re.sub(r"\s*\([^)]*\)", "", head), re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _about(recipe: Recipe) -> str:
    sources = [source.label for source in recipe.data.all_sources]
    data = "the embedded task families" if sources == [EMBEDDED] else ", ".join(sources)
    base = recipe.model.name + (" as a mixture of experts" if recipe.model.upcycle else "")
    about = f"{recipe.adapter.method} on {base}, trained on {data}"
    cells = len(recipe.ablation.all_cells)
    return f"{about}; a grid of {cells} cells" if cells > 1 else about


def _comment(text: str) -> str:
    """The comment at the head of a recipe, without its signs."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def _command(head: str) -> str:
    """The command at the head of a recipe, in one line where it goes over several."""
    first = re.sub(r"\s*\\\n\s*", " ", head).splitlines()[0]
    return re.split(r" {2,}", first.strip())[0]


def _entry(name: str, beside: str, below: list[str], width: int) -> "Text":
    from rich.text import Text

    head = textwrap.fill(f"{name}  {beside}" if beside else name, width, subsequent_indent=_INDENT)
    lines = [textwrap.fill(text, width, initial_indent=_INDENT, subsequent_indent=_INDENT) for text in below]
    text = Text("\n".join([head, *lines]))
    text.stylize("bold", 0, len(name))
    return text
