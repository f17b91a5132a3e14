"""The questions that one model answers and the other does not, with what each of them answered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any

from topiclora_cli.evaluation.comparison.answers import rows

_LONGEST = 600  # characters of a prompt, whose end is the question
_UNKNOWN = "?"
# lm-eval's accuracies, each by what a choice's log-likelihood is divided by.
_LENGTHS: Mapping[str, Callable[[str], int]] = {
    "acc": lambda text: 1,
    "acc_norm": len,
    "acc_bytes": lambda text: len(text.encode()),
}


@dataclass(frozen=True)
class Flip:
    """A question as the model was asked it, the right answer and each side's; won: the baseline was wrong."""

    task: str
    question: str
    right: str
    baseline: str
    answer: str
    won: bool


def in_turn(flipped: Mapping[str, Sequence[str]], count: int) -> Mapping[str, Sequence[str]]:
    """At most `count` questions, one of every task in turn."""
    turns = zip_longest(*([(task, each) for each in names] for task, names in flipped.items()))
    chosen: dict[str, list[str]] = {}
    for task, name in [each for turn in turns for each in turn if each is not None][:count]:
        chosen.setdefault(task, []).append(name)
    return chosen


def read_flips(task: str, baseline: Path, side: Path, key: str, names: Sequence[str]) -> list[Flip]:
    """What both answered to the questions `names`, from their samples of a task; key: the metric, `name,filter`."""
    metric, _, pipeline = key.partition(",")
    found = []
    first, second = (_rows(path, pipeline, set(names)) for path in (baseline, side))
    for name in names:
        one, two = first[name], second[name]
        won = two[metric] > one[metric]
        choices, question = _choices(two)
        before, after = (_answer(row, metric, choices) for row in (one, two))
        right = _right(two["target"], choices, after if won else before) if choices else _text(two["target"])
        found.append(Flip(task, _shortened(question), right, before, after, won))
    return found


def _rows(path: Path, pipeline: str, names: set[str]) -> Mapping[str, Mapping[str, Any]]:
    return {name: row for name, row in rows(path) if name in names and row["filter"] == pipeline}


def _choices(row: Mapping[str, Any]) -> tuple[list[str], str]:
    """The answers that the model chose among, none where it wrote its own, and what it was asked."""
    asked = [(each["arg_0"], each.get("arg_1")) for each in row["arguments"].values()]
    question = asked[0][0]
    if not all(isinstance(continuation, str) for _, continuation in asked):
        return [], question
    if len({context for context, _ in asked}) == 1:
        return [continuation for _, continuation in asked], question
    # The choices stand within the text, before one and the same end.
    alike = takewhile(lambda signs: len(set(signs)) == 1, zip(*(context for context, _ in asked), strict=False))
    shared = "".join(signs[0] for signs in alike)
    start = shared.rfind(" ") + 1
    return [context[start:] for context, _ in asked], f"{question[:start]}...{asked[0][1]}"


def _answer(row: Mapping[str, Any], metric: str, choices: Sequence[str]) -> str:
    responses = row["filtered_resps"]
    if not choices:
        return _text(responses[0])
    if len(choices) == 1:
        return choices[0].strip() if str(responses[0][1]) == "True" else "other words"
    if metric not in _LENGTHS or len(responses) != len(choices):
        return _UNKNOWN
    likelihoods = [float(each[0]) for each in responses]
    scores = [value / _LENGTHS[metric](choice.strip()) for value, choice in zip(likelihoods, choices, strict=True)]
    return choices[scores.index(max(scores))].strip()


def _right(target: Any, choices: Sequence[str], winner: str) -> str:
    """The choice that `target` counts to or, where it does not, what the side answered that was right."""
    place = str(target)
    return choices[int(place)].strip() if place.isdecimal() and int(place) < len(choices) else winner


def _text(value: Any) -> str:
    return " / ".join(map(_text, value)) if isinstance(value, list) else str(value).strip()


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _LONGEST else f"... {text[-_LONGEST:]}"
