"""What is lost where routing is interfered with: changes of each question, with intervals, by topic and by expert."""

from collections.abc import Mapping, Sequence

import numpy as np

from topiclora_cli.evaluation.asking import Answered
from topiclora_cli.evaluation.comparison.intervals import draw_questions, drawn_means, interval, paired_interval
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.routing import MEASURES, Changes, TopicChange

Array = np.ndarray


def changes(before: Answered, after: Answered) -> Changes:
    """Every measure before and after, and its mean change over the questions that have it."""
    values: dict[str, tuple[float, float, Interval]] = {}
    for measure in MEASURES:
        one, other = getattr(before, measure), getattr(after, measure)
        known = ~np.isnan(one) & ~np.isnan(other)
        if known.any():
            change = mean_change(other[known] - one[known])
            values[measure] = (float(one[known].mean()), float(other[known].mean()), change)
    return Changes(
        before={name: value[0] for name, value in values.items()},
        after={name: value[1] for name, value in values.items()},
        change={name: value[2] for name, value in values.items()},
    )


def mean_change(differences: Array) -> Interval:
    """The mean of paired differences of questions, with its interval."""
    return paired_interval([differences[None]], by_task=False)


def by_topic(topics: Sequence[Sequence[str]], before: Answered, after: Answered) -> dict[str, TopicChange]:
    """Changes over the questions of each topic; one of several topics counts for each of them."""
    found = {}
    for topic in sorted({name for tags in topics for name in tags}):
        member = np.array([topic in tags for tags in topics])
        means = {}
        for measure in MEASURES:
            differences = (getattr(after, measure) - getattr(before, measure))[member]
            differences = differences[~np.isnan(differences)]
            if len(differences):
                means[measure] = mean_change(differences)
        found[topic] = TopicChange(int(member.sum()), means)
    return found


def own_and_others(
    owners: Sequence[int | None], expert: int, before: Answered, after: Answered, measure: str
) -> tuple[Interval, Interval, Interval] | None:
    """The mean change on an expert's own questions, on those of the others, and their difference.

    owners: whose each question is, None of none. None where either has no question.
    """
    differences = getattr(after, measure) - getattr(before, measure)
    known = ~np.isnan(differences)
    own = known & np.array([owner == expert for owner in owners])
    others = known & np.array([owner is not None and owner != expert for owner in owners])
    if not own.any() or not others.any():
        return None
    parts = [differences[own][None], differences[others][None]]
    apart = interval(drawn_means(list(draw_questions(parts)), [1.0, -1.0]))
    return mean_change(parts[0][0]), mean_change(parts[1][0]), apart


def owner_by_topic(assignment: Mapping[str, Sequence[float]], topics: Sequence[str]) -> int | None:
    """The expert that a question's topics belong to most, by each topic's shares of the experts; None for no topic."""
    known = [np.asarray(assignment[topic]) for topic in topics if topic in assignment]
    return int(np.mean(known, axis=0).argmax()) if known else None
