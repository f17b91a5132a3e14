"""What a task is made of: a family draws drafts of problems, and a draft becomes an example.

Two rules hold for every family because they are kept here and nowhere else. The split of a problem depends on the
problem alone, never on its wording, on a seed or on how many were asked for, so no problem can be trained on and tested
on. And options are shuffled last, so the place of the right one says nothing.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

SPLITS = ("train", "validation", "test")
_TRAIN, _VALIDATION = 0.7, 0.1


@dataclass(frozen=True)
class Draft:
    """A problem as its family poses it: no "Answer:" yet, and the options in no meaningful order."""

    question: str
    answer: str
    key: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """One question with its answer; `choices` are in the order shown, and none for a free answer.

    `key` names the problem under the wording: two examples with one key are one problem asked twice.
    """

    task: str
    topics: tuple[str, ...]
    prompt: str
    choices: tuple[str, ...]
    answer: str
    key: str


@dataclass(frozen=True)
class Family:
    """A kind of problem: `topics` are BIG-bench keywords, `sample` poses one problem of the kind."""

    name: str
    topics: tuple[str, ...]
    kind: Literal["choice", "free"]
    summary: str
    sample: Callable[[Random], Draft]

    def draw(self, rng: Random) -> Example:
        """Pose one problem as a finished prompt."""
        draft = self.sample(rng)
        choices = tuple(rng.sample(draft.options, len(draft.options)))
        shown = f"\nOptions: {', '.join(choices)}" if choices else ""
        return Example(self.name, self.topics, f"{draft.question}{shown}\nAnswer:", choices, draft.answer, draft.key)


def split_of(family: str, key: str) -> str:
    """Say which split a problem belongs to: 70 % train, 10 % validation, 20 % test."""
    digest = hashlib.sha256(f"{family}\n{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < _TRAIN:
        return "train"
    return "validation" if position < _TRAIN + _VALIDATION else "test"
