"""Changes of a question's text. Each is the same for the same source of chance, and None where it does not apply."""

import re
from collections.abc import Sequence
from itertools import pairwise
from random import Random

_OPTIONS = re.compile(r"\s*(?:(?:answer )?(?:options|choices)\s*:|[-*•]\s|\(?[A-Ja-j1-9][.):]\s)", re.IGNORECASE)
_LETTERED = re.compile(r"^(\s*\(?([A-J])[.):]+\s+)(.*\S)(\s*)$")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[^\W\d_]{4,}")
_KEPT, _EVERY = 2 / 3, 5  # of words that truncation keeps; one word in so many gets a typo
DISTRACTORS = (
    "The library closes at six on Fridays.",
    "A ferry crosses the lake twice a day.",
    "The bakery has painted its door green.",
    "Rain is expected in the north this evening.",
    "The museum has bought a new clock.",
    "Somebody left an umbrella on the train.",
    "The orchestra rehearses in the old town hall.",
    "The lighthouse was built in a single summer.",
)


def parts(text: str) -> tuple[str, str]:
    """The question itself, and what follows it: its listed options and the cue for the answer."""
    lines = text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        is_cue = at == len(lines) - 1 and line.rstrip().endswith(":")
        if at and (_OPTIONS.match(line) or is_cue):
            return "".join(lines[:at]), "".join(lines[at:])
    return text, ""


def truncate(text: str, chance: Random) -> str | None:
    """The question without the last third of its words."""
    body, rest = parts(text)
    words = list(re.finditer(r"\S+", body))
    kept = round(_KEPT * len(words))
    if not 1 <= kept < len(words):
        return None
    end = body[len(body.rstrip()) :]
    return body[: words[kept - 1].end()] + end + rest


def distract(text: str, chance: Random) -> str | None:
    """The question after a sentence about something else."""
    return f"{chance.choice(DISTRACTORS)} {text}"


def mistype(text: str, chance: Random) -> str | None:
    """Two inner letters change places in every fifth word of four letters or more, in one at least."""
    body, rest = parts(text)
    words = [word for word in _WORD.finditer(body) if len(set(word.group()[1:-1])) > 1]
    if not words:
        return None
    chosen = chance.sample(words, max(1, round(len(words) / _EVERY)))
    for word in sorted(chosen, key=lambda each: -each.start()):
        letters = list(word.group())
        places = [at for at in range(1, len(letters) - 2) if letters[at] != letters[at + 1]]
        at = chance.choice(places)
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
        body = body[: word.start()] + "".join(letters) + body[word.end() :]
    return body + rest


def shuffle_sentences(text: str, chance: Random) -> str | None:
    """The question's sentences in another order; one that asks stays the last."""
    body, rest = parts(text)
    end = body[len(body.rstrip()) :]
    sentences = _SENTENCE.split(body.rstrip())
    last = [sentences.pop()] if sentences[-1].endswith("?") else []
    mixed = shuffled(range(len(sentences)), chance)
    if mixed is None:
        return None
    return " ".join([*(sentences[at] for at in mixed), *last]) + end + rest


def permute_options(text: str, choices: Sequence[str], chance: Random) -> tuple[str, list[int]] | None:
    """The text with its listed options in another order, and for each choice which is now what it was.

    Options are listed by letters, a line each, or one after another as the choices' own texts. None where they are
    not.
    """
    lettered = _permute_lines(text, choices, chance)
    return lettered if lettered is not None else _permute_inline(text, choices, chance)


def _permute_lines(text: str, choices: Sequence[str], chance: Random) -> tuple[str, list[int]] | None:
    lines = text.split("\n")
    found = [(at, match) for at, line in enumerate(lines) if (match := _LETTERED.match(line))]
    found = found[-len(choices) :]
    if len(found) != len(choices) or [m.group(2) for _, m in found] != [chr(65 + n) for n in range(len(choices))]:
        return None
    named = [choice.strip().strip("().:") for choice in choices]
    by_letter = named == [match.group(2) for _, match in found]
    if not by_letter and named != [match.group(3).strip("().:") for _, match in found]:
        return None
    mixed = shuffled(range(len(choices)), chance)
    if mixed is None:
        return None
    for place, source in enumerate(mixed):
        at, match = found[place]
        lines[at] = match.group(1) + found[source][1].group(3) + match.group(4)
    order = [mixed.index(n) for n in range(len(choices))] if by_letter else list(range(len(choices)))
    return "\n".join(lines), order


def _permute_inline(text: str, choices: Sequence[str], chance: Random) -> tuple[str, list[int]] | None:
    spans: dict[int, tuple[int, int]] = {}
    for n in sorted(range(len(choices)), key=lambda each: -len(choices[each])):
        named = choices[n].strip()
        free = [
            match.span()
            for match in re.finditer(rf"(?<!\w){re.escape(named)}(?!\w)", text)
            if named and not any(start < match.end() and match.start() < end for start, end in spans.values())
        ]
        if not free:
            return None
        spans[n] = free[-1]
    ordered = sorted(spans.values())
    # In a list little stands between two options.
    if any(later[0] - earlier[1] > len(" and, or ") for earlier, later in pairwise(ordered)):
        return None
    mixed = shuffled(range(len(ordered)), chance)
    if mixed is None:
        return None
    shown = [text[start:end] for start, end in ordered]
    for place in reversed(range(len(ordered))):
        start, end = ordered[place]
        text = text[:start] + shown[mixed[place]] + text[end:]
    return text, list(range(len(choices)))


def shuffled(places: Sequence[int], chance: Random) -> list[int] | None:
    """The places in another order than their own; None of fewer than two."""
    if len(places) < 2:
        return None
    while True:
        mixed = chance.sample(list(places), len(places))
        if mixed != list(places):
            return mixed
