"""What a suite is: a question, and the cells that answer it for a recipe, each with a question of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from topiclora_cli.recipe import Recipe


@dataclass(frozen=True)
class SuiteCell:
    """A cell by its name, the question that it answers, and the dotted recipe keys that it changes.

    One on an axis is called `factor=value`, or `series-factor=value` where several methods share the axis.
    """

    name: str
    question: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """A suite for one recipe: its cells, further recipe keys that it needs, and what was left out and why."""

    cells: Sequence[SuiteCell]
    changes: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Maker(Protocol):
    """Makes a suite for a recipe; raises TopicLoraError where it does not suit the recipe."""

    def __call__(self, recipe: Recipe, *, quick: bool) -> Made:
        """`quick` asks for the few cells that a laptop has time for."""


@dataclass(frozen=True)
class Suite:
    """A suite by its name, and the question that all of it is about."""

    name: str
    question: str
    make: Maker


@dataclass(frozen=True)
class SuiteChanges:
    """What suites ask of a recipe: values by dotted key, and lines on the cells that were left out."""

    values: Mapping[str, Any]
    notes: Sequence[str]
