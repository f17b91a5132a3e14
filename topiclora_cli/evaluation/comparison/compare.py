"""Sides made of runs, each compared with one baseline on the same questions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.comparison.answers import TaskAnswers, find_answers
from topiclora_cli.evaluation.comparison.contributions import contributions
from topiclora_cli.evaluation.comparison.drawing import Array
from topiclora_cli.evaluation.comparison.flips import Flip, in_turn, read_flips
from topiclora_cli.evaluation.comparison.intervals import Drawn, draw_questions, drawn_means, interval
from topiclora_cli.evaluation.comparison.pairing import common_questions, common_tasks
from topiclora_cli.evaluation.comparison.places import Place, find_place
from topiclora_cli.evaluation.comparison.rows import Row, aggregates
from topiclora_cli.evaluation.comparison.significance import holm, is_right_or_wrong, of_draws, of_questions
from topiclora_cli.evaluation.metrics import Metric, headline, matches

BASE = "base"


@dataclass(frozen=True)
class Side:
    """Runs that differ in their seed alone, or a single one."""

    label: str
    places: Sequence[Place]


@dataclass(frozen=True)
class Compared:
    """One side beside the baseline: a row for each task, group and the mean.

    notes: what was left out. flipped: how many questions one side alone answered rightly, of the first seed of each;
    flips: those that were asked for.
    """

    side: str
    baseline: str
    rows: Sequence[Row]
    notes: Sequence[str]
    flipped: int
    flips: Sequence[Flip]


def compare(
    names: Sequence[str],
    *,
    baseline: str | None = None,
    metric: str | None = None,
    tasks: Sequence[str] = (),
    show_flips: int = 0,
) -> list[Compared]:
    """Every side minus the baseline: the base of the first run, another place, or the first side.

    metric: `name` or `name,filter`, else what the baseline's evaluation went by, or a task's first. tasks: tasks or
    groups, all by default. show_flips: how many questions of each comparison to read the answers of.

    Raises TopicLoraError where there is nothing to compare, or not the same questions were asked.
    """
    named = [*names, *([baseline] if baseline not in (None, BASE) else [])]
    if not named:
        raise TopicLoraError("There is no run to compare.", "Name one or more.")
    places = _told_apart({name: find_place(name) for name in named})
    if baseline == BASE:
        against = Side(BASE, [_base_of(list(places.values()))])
        others = [place for place in places.values() if place.answers.folder != against.places[0].answers.folder]
        sides = sides_of(others)
    else:
        sides = sides_of(list(places.values()))
        if len(sides) == 1:
            sides = [Side(each.label, [each]) for each in places.values()]
        first = places[baseline] if baseline is not None else next(iter(places.values()))
        against = next(side for side in sides if any(each is first for each in side.places))
        sides = [side for side in sides if side is not against]
    if not sides:
        raise TopicLoraError("There is one run, and nothing to compare it with.", "Name another, or --baseline base.")
    return [_compared(side, against, metric, tasks, show_flips) for side in sides]


def compare_folders(folders: Sequence[Path], headlines: Mapping[str, str]) -> list[Compared]:
    """Every output folder of lm-eval's by itself minus the first, on these tasks by these metrics (`name,filter`).

    Raises TopicLoraError as `compare`.
    """
    first, *others = (Place(folder.name, find_answers(folder), headlines=headlines) for folder in folders)
    against = Side(first.label, [first])
    return [_compared(Side(place.label, [place]), against, None, list(headlines), 0) for place in others]


def _told_apart(places: Mapping[str, Place]) -> dict[str, Place]:
    """Places by name, labelled by the whole of it where others have the same label."""
    counts = Counter(place.label for place in places.values())
    return {name: place if counts[place.label] == 1 else replace(place, label=name) for name, place in places.items()}


def sides_of(places: Sequence[Place]) -> list[Side]:
    """Runs of one recipe with a seed each form one side."""
    groups: list[list[Place]] = []
    for place in places:
        for group in groups:
            theirs = [each.trained for each in group if each.trained is not None]
            same = place.trained is not None and theirs and place.trained.asked == theirs[0].asked
            if same and place.seed not in {each.seed for each in theirs}:
                group.append(place)
                break
        else:
            groups.append([place])
    return [
        Side(
            group[0].label
            if len(group) == 1
            else f"{group[0].label} (seeds {', '.join(str(each.seed) for each in group)})",
            group,
        )
        for group in groups
    ]


def _base_of(places: Sequence[Place]) -> Place:
    found = next((place for place in places if place.base is not None), None)
    if found is None or found.base is None:
        raise TopicLoraError("None of the runs has scores of its base.", "Evaluate one with: topiclora eval --base")
    models = {place.trained.model for place in places if place.trained is not None}
    if len(models) > 1:
        raise TopicLoraError("The runs have different base models.", "Compare the runs of each base alone.")
    return Place(BASE, find_answers(found.base))


def _seeds(side: Side, against: Side) -> tuple[list[Place], list[Place]]:
    """The runs to pair, seed by seed; a single run stands against every seed of the other side."""
    ours, theirs = list(side.places), list(against.places)
    if len(ours) == 1 or len(theirs) == 1:
        count = max(len(ours), len(theirs))
        return (ours * count)[:count], (theirs * count)[:count]
    by_seed = {place.seed: place for place in theirs}
    pairs = [(place, by_seed[place.seed]) for place in ours if place.seed in by_seed]
    if not pairs:
        raise TopicLoraError(f"{side.label} and {against.label} share no seed.", "Compare runs of the same seeds.")
    return [one for one, _ in pairs], [other for _, other in pairs]


def _compared(side: Side, against: Side, metric: str | None, wanted: Sequence[str], show_flips: int) -> Compared:
    ours, theirs = _seeds(side, against)
    places = list({id(place): place for place in (*theirs, *ours)}.values())
    notes: list[str] = []
    scored: dict[str, tuple[str, tuple[Array, Array], tuple[Array, Array]]] = {}
    flipped: dict[str, list[str]] = {}
    if left := len(side.places) + len(against.places) - len(places):
        notes.append(f"Runs of seeds that one side lacks are left out: {left}.")
    if len(ours) > 1:
        notes.append(f"{len(ours)} seeds say little of what other seeds would do.")
    for name in common_tasks(places, wanted):
        read = {id(place): place.answers.task(name) for place in places}
        common = common_questions(name, places, list(read.values()))
        if left := max(len(each.questions) for each in read.values()) - len(common):
            notes.append(f"{name}: {left} questions that not all asked are left out.")
        preferred = [place.headlines[name] for place in places if name in place.headlines]
        key = _metric(name, list(read.values()), metric, preferred)
        if key is None:
            notes.append(f"{name} is left out: none of its metrics is one of single questions.")
            continue
        one, other = _scores(ours, read, common, key), _scores(theirs, read, common, key)
        scored[name] = (key, one, other)
        if is_right_or_wrong(one[1][0], other[1][0]):
            changed = one[1][0] != other[1][0]
            flipped[name] = [each for each, differs in zip(common, changed, strict=True) if differs]
    if not scored:
        raise TopicLoraError("No task has a metric of single questions.", "Choose another with --metric.")
    if show_flips and any(flipped.values()) and len(ours) > 1:
        notes.append(f"Questions that flipped are those of {ours[0].label} and {theirs[0].label}.")
    if show_flips and not any(flipped.values()):
        notes.append(f"No question flipped{'' if flipped else ': the metric is none of right and wrong answers'}.")
    # All at once, so that no two tasks of one size are drawn alike.
    drawn = dict(zip(scored, draw_questions([one[0] - other[0] for _, one, other in scored.values()]), strict=True))
    rows = [
        _row(name, key, one, other, drawn[name], places[0].answers.facts(name).way)
        for name, (key, one, other) in scored.items()
    ]
    adjusted = holm([row.p for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
    keys = {row.task: f"{row.metric},{row.filter}" for row in rows}
    flips = [
        flip
        for task, names in in_turn(flipped, show_flips).items()
        for flip in read_flips(task, theirs[0].answers.files[task], ours[0].answers.files[task], keys[task], names)
    ]
    return Compared(
        side.label,
        against.label,
        [*rows, *aggregates(rows, drawn, places[0].answers.groups)],
        notes,
        sum(map(len, flipped.values())),
        flips,
    )


def _row(
    name: str,
    key: str,
    ours: tuple[Array, Array],
    theirs: tuple[Array, Array],
    drawn: Drawn,
    way: Mapping[str, bool | None],
) -> Row:
    means = drawn_means([drawn], [1.0])
    tested = of_questions(ours[1][0], theirs[1][0]) if len(ours[0]) == 1 else of_draws(means)
    label, _, pipeline = key.partition(",")
    score, base = float(ours[0].mean()), float(theirs[0].mean())
    return Row(
        task=name,
        metric=label,
        filter=pipeline,
        unit=Metric(label, pipeline, max(score, base)).unit,
        higher_is_better=way.get(label),
        count=ours[0].shape[1],
        baseline=base,
        score=score,
        difference=interval(means),
        p=tested.p,
        test=tested.test,
    )


def _metric(name: str, read: Sequence[TaskAnswers], wanted: str | None, preferred: Sequence[str]) -> str | None:
    """The metric to go by of those that all have for every question; raises TopicLoraError where the wanted is none."""
    usable = [key for key in read[0].comparable if all(key in answers.comparable for answers in read)]
    if wanted is None:
        return headline(usable, preferred) if usable else None
    found = next((key for key in usable if matches(wanted, key)), None)
    if found is None:
        names = {key.partition(",")[0] for key in usable}
        raise TopicLoraError(
            f"{name} has no metric {wanted!r} of single questions in every run.", nearest(wanted, names)
        )
    return found


def _scores(
    places: Sequence[Place], read: dict[int, TaskAnswers], common: Sequence[str], key: str
) -> tuple[Array, Array]:
    """What every question adds to the score and its raw part, each (seeds, questions)."""
    pairs = []
    for place in places:
        scores = read[id(place)].scores[key]
        pairs.append(contributions(key, [scores[each] for each in common]))
    return np.stack([part for part, _ in pairs]), np.stack([raw for _, raw in pairs])
