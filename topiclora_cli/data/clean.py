"""What to leave out of the training examples: repetitions, and questions that the model will be asked in evaluation.

Repetitions are compared to the letter, or without regard to case and white space: a bracket or an operator may be all
that tells two questions apart. Contamination goes by words in lower case, without punctuation: it is an overlap in a
run of words (GPT-3, arXiv 2005.14165, appendix C: 13 words), or a prompt that is the question. Questions shorter than
the run count where an example has them as a whole, from 8 words on, because fewer are shared by chance.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from topiclora_cli.data.row import Row

SHORTEST_RUN = 8
# A run of words that so many questions share is the task's own wording, not any question.
WORDING = 10

Run = tuple[str, ...]

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def normalised(text: str) -> str:
    """A text in lower case, with one space for any white space, and one code for each character (Unicode's NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class Repetitions:
    """Says of each example whether both its texts were seen before, to the letter or but for case and white space."""

    def __init__(self, mode: Literal["none", "exact", "normalised"]) -> None:
        self.mode = mode
        self._seen: set[bytes] = set()

    def __call__(self, row: Row) -> bool:
        if self.mode == "none":
            return False
        parts = (row.prompt, row.completion)
        mark = digest("\0".join(normalised(part) if self.mode == "normalised" else part for part in parts))
        known = mark in self._seen
        self._seen.add(mark)
        return known


class Contamination:
    """Says of an example whether it shares `ngram` words in a row with one of the questions, or its prompt is one."""

    def __init__(self, questions: Iterable[str], ngram: int = 13) -> None:
        counts: dict[int, Counter[Run]] = {}
        self._whole: set[Run] = set()
        for question in questions:
            found = words(question)
            length = min(ngram, len(found))
            if found:
                self._whole.add(tuple(found))
            if length >= min(SHORTEST_RUN, ngram):
                runs = {tuple(found[start : start + length]) for start in range(len(found) - length + 1)}
                counts.setdefault(length, Counter()).update(runs)
        self._runs = {
            length: {run for run, count in counter.items() if count <= WORDING} for length, counter in counts.items()
        }
        # All runs are compared by their first words first, which nearly always settles it.
        self._least = min(self._runs, default=ngram)
        self._starts = {run[: self._least] for runs in self._runs.values() for run in runs}

    def __call__(self, row: Row) -> bool:
        if any(tuple(words(asked)) in self._whole for asked in row.asked):
            return True
        found = words(row.prompt + row.completion)
        return any(
            tuple(found[start : start + length]) in runs
            for start in range(len(found) - self._least + 1)
            if tuple(found[start : start + self._least]) in self._starts
            for length, runs in self._runs.items()
        )
