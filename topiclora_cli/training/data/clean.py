"""What to leave out of the training examples: repetitions, and questions that the model will be asked in evaluation.

Texts are compared by their words in lower case, without punctuation, so that a changed space or capital hides nothing.
Contamination is an overlap in a run of words (GPT-3, arXiv 2005.14165, appendix C: 13 words), or a prompt that is the
question. Questions shorter than the run count where an example has them as a whole, from 8 words on, because fewer are
shared by chance.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from topiclora_cli.training.data.row import Row

SHORTEST_RUN = 8
# A run of words that so many questions share is the task's own wording, not any question.
WORDING = 10

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class Repetitions:
    """Says of each example whether prompt and completion were seen before, to the letter or by their words."""

    def __init__(self, mode: Literal["none", "exact", "normalised"]) -> None:
        self.mode = mode
        self._seen: set[bytes] = set()

    def __call__(self, row: Row) -> bool:
        if self.mode == "none":
            return False
        parts = (row.prompt, row.completion)
        mark = digest("\0".join(" ".join(words(part)) if self.mode == "normalised" else part for part in parts))
        known = mark in self._seen
        self._seen.add(mark)
        return known


class Contamination:
    """Says of an example whether it shares `ngram` words in a row with one of the questions, or its prompt is one."""

    def __init__(self, questions: Iterable[str], ngram: int = 13) -> None:
        counts: dict[int, Counter[bytes]] = {}
        self._whole: set[bytes] = set()
        for question in questions:
            found = words(question)
            length = min(ngram, len(found))
            if found:
                self._whole.add(digest(" ".join(found)))
            if length >= min(SHORTEST_RUN, ngram):
                counts.setdefault(length, Counter()).update(set(_runs(found, length)))
        self._runs = {
            length: {run for run, count in counter.items() if count <= WORDING} for length, counter in counts.items()
        }

    def __call__(self, row: Row) -> bool:
        if digest(" ".join(words(row.prompt))) in self._whole:
            return True
        found = words(row.prompt + row.completion)
        return any(run in known for length, known in self._runs.items() for run in _runs(found, length))


def _runs(found: Sequence[str], length: int) -> Iterator[bytes]:
    return (digest(" ".join(found[start : start + length])) for start in range(len(found) - length + 1))
