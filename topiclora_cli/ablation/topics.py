"""Cells by the topics of questions, which are those of one cell for all."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.pairs import Array, BySeed, paired
from topiclora_cli.evaluation.comparison.parts import part_intervals
from topiclora_cli.recipe import FULL
from topiclora_cli.runs.results.ablation import TopicScore
from topiclora_cli.runs.results.evaluation import PartScores

Cells = Mapping[str, BySeed]
Topics = Mapping[str, Sequence[Sequence[str]]]  # task -> of each question what it is about


def sorting_cell(cells: Cells, reference: str) -> str | None:
    """The cell by whose topics all are sorted: the reference, `full`, or the first that has kept any; None of none."""
    names = dict.fromkeys(name for name in (reference, FULL, *cells) if name in cells)
    return next((name for name in names if any(_sorted(each) for each in cells[name].values())), None)


def cells_by_topic(cells: Cells, reference: str) -> dict[str, tuple[TopicScore, ...]]:
    """Of each cell its topics, the largest first: scores over seeds, and differences from the reference.

    Where evaluations are older than topics that are kept, each run's own stand, and differences have no intervals.
    """
    whose = sorting_cell(cells, reference)
    if whose is None:
        return {name: _by_own_topics(name, cells, reference) for name in cells}
    topics = next(known for result in cells[whose].values() if (known := _sorted(result)))
    every = [tags for task in topics.values() for tags in task]
    places: dict[str, list[int]] = {}
    for place, tags in enumerate(every):
        for topic in tags:
            places.setdefault(topic, []).append(place)
    scores = {name: _stacked(list(by_seed.values()), topics) for name, by_seed in cells.items()}
    sides = {}
    for name, by_seed in cells.items():
        pairs = paired(name, by_seed, reference, cells.get(reference, {})) if name != reference else []
        ours = _stacked([one for _, one, _ in pairs], topics)
        theirs = _stacked([two for _, _, two in pairs], topics)
        if ours is not None and theirs is not None:
            sides[name] = ours - theirs
    found: dict[str, list[TopicScore]] = {name: [] for name in cells}
    for topic in sorted(places, key=lambda each: (-len(places[each]), each)):
        parts = {name: side[:, places[topic]] for name, side in sides.items()}
        ends = dict(zip(parts, part_intervals(list(parts.values())), strict=True))
        for name, own in scores.items():
            if own is None:
                continue
            part, end = parts.get(name), ends.get(name)
            found[name].append(
                TopicScore(
                    topic=topic,
                    count=len(places[topic]),
                    mean=float(own[:, places[topic]].mean()),
                    difference=None if part is None else float(part.mean()),
                    seeds=0 if part is None else len(part),
                    low=None if end is None else end.low,
                    high=None if end is None else end.high,
                )
            )
    return {name: tuple(each) for name, each in found.items()}


def _sorted(result: CellResult) -> Topics:
    """The topics of the questions of tasks that are scored by topic."""
    by_topic, topics = result.scores.by_topic, result.topics or {}
    return {task: topics[task] for task in by_topic.tasks if task in topics} if by_topic is not None else {}


def _stacked(results: Sequence[CellResult], topics: Topics) -> Array | None:
    """What every question of the tasks of topics scores in each result (results, questions).

    None where some of them were not asked these questions.
    """
    rows = []
    for result in results:
        keys = {row.task: row.key for row in result.scores.tasks}
        tasks = [result.by_question.get(task, {}).get(keys.get(task, ""), ()) for task in topics]
        if any(len(own) != len(known) for own, known in zip(tasks, topics.values(), strict=True)):
            return None
        rows.append(np.concatenate([np.asarray(task, dtype=float) for task in tasks]))
    return np.stack(rows) if rows else None


def _by_own_topics(name: str, cells: Cells, reference: str) -> tuple[TopicScore, ...]:
    """The topics of a cell in the order of its first seed; a difference is of seeds where both have as many questions
    of one."""
    by_seed = cells[name]
    pairs = paired(name, by_seed, reference, cells.get(reference, {})) if name != reference else []
    found = []
    for topic in dict.fromkeys(topic for result in by_seed.values() for topic in _parts(result)):
        own = [part for result in by_seed.values() if (part := _parts(result).get(topic))]
        both = [
            (one.tuned, two.tuned)
            for _, ours, theirs in pairs
            if (one := _parts(ours).get(topic)) and (two := _parts(theirs).get(topic)) and one.count == two.count
        ]
        difference = fmean(one - two for one, two in both) if both else None
        found.append(TopicScore(topic, own[0].count, fmean(part.tuned for part in own), difference, len(both)))
    return tuple(found)


def _parts(result: CellResult) -> dict[str, PartScores]:
    by_topic = result.scores.by_topic
    return {part.part: part for part in by_topic.topics} if by_topic is not None else {}
