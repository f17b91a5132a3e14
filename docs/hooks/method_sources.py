"""What every method follows of its paper and code, where ours deviates, and what it brings to a recipe."""

from collections.abc import Iterator
from typing import Any

import yaml

from topiclora_cli.recipe.methods import METHODS, SECTIONS
from topiclora_cli.recipe.references import PROTOCOL, REFERENCES

INTRODUCTION = f"""# Methods and their sources

What `topiclora methods --sources` prints, and what each preset fills in where a recipe leaves it open. {PROTOCOL}
"""


def methods_page() -> str:
    """The page: a section for each method."""
    return "\n".join([INTRODUCTION, *(line for name in METHODS for line in _method(name))])


def _method(name: str) -> Iterator[str]:
    reference, preset = REFERENCES[name], METHODS[name]
    yield f"## {name}\n"
    code = f" Code: {reference.code}." if reference.code else ""
    yield f"{reference.paper}.{code} Follows {reference.follows}.\n"
    for each in reference.deviations:
        yield f"- Deviates, {each.name}: {each.what}; {each.why}."
    brings: dict[str, Any] = {section: preset.values(section) for section in SECTIONS}
    text = yaml.safe_dump({section: dict(values) for section, values in brings.items() if values}, sort_keys=False)
    yield f"\n```yaml\n{text.rstrip()}\n```\n"
