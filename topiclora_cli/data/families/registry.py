"""All families in one table, and the two ways to take examples out of it."""

from collections.abc import Sequence
from random import Random

from topiclora_cli.data.families import (
    beliefs,
    causes,
    claims,
    code,
    dates,
    feelings,
    logic,
    numbers,
    physics,
    translation,
    words,
)
from topiclora_cli.data.families.example import SPLITS, Example, Family, split_of
from topiclora_cli.errors import TopicLoraError, nearest

_MODULES = (numbers, physics, code, words, translation, dates, logic, causes, feelings, beliefs, claims)

FAMILIES: dict[str, Family] = {family.name: family for module in _MODULES for family in module.FAMILIES}

# A family counts as used up after this many draws in a row that bring no new problem of the wanted split.
_PATIENCE = 20_000


def generate(family: str, split: str, n: int, seed: int = 0) -> list[Example]:
    """Draw `n` examples of one family and split, no problem twice; a longer list begins with the shorter one.

    Raises TopicLoraError for an unknown family or split, a negative `n`, and more examples than the family has.
    """
    if family not in FAMILIES:
        raise TopicLoraError(f"No task family is called '{family}'.", nearest(family, FAMILIES))
    if split not in SPLITS:
        raise TopicLoraError(f"No split is called '{split}'.", nearest(split, SPLITS))
    if n < 0:
        raise TopicLoraError(f"Cannot draw {n} examples.", "Ask for 0 or more.")
    rng = Random(f"{family}/{split}/{seed}")
    found: dict[str, Example] = {}
    misses = 0
    while len(found) < n:
        example = FAMILIES[family].draw(rng)
        if example.key not in found and split_of(family, example.key) == split:
            found[example.key] = example
            misses = 0
        elif (misses := misses + 1) > _PATIENCE:
            raise TopicLoraError(
                f"Family '{family}' could supply {len(found)} distinct {split} examples, not the {n} asked for.",
                f"Ask for at most {len(found)} per family.",
            )
    return list(found.values())


def mixture(split: str, per_family: int, *, seed: int = 0, families: Sequence[str] | None = None) -> list[Example]:
    """Draw `per_family` examples of each family (all by default) and shuffle them together.

    Raises TopicLoraError as `generate` does.
    """
    names = FAMILIES if families is None else dict.fromkeys(families)
    examples = [example for name in names for example in generate(name, split, per_family, seed)]
    Random(f"mixture/{split}/{seed}").shuffle(examples)
    return examples
