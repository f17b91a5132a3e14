"""Scores by the topics of questions and by the experts that took them, as tables."""

from collections.abc import Sequence

from topiclora_cli.reporting.formats import Figure, measured, percent, points
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.evaluation import PartScores, ScoresByTopic
from topiclora_cli.runs.results.interval import FEWEST

ABOUT = (
    "A question's topic is its data's own, else the one that the run's graph finds it most about; its expert is the "
    "one with the largest mean gate over its tokens. Scores are each task's headline metric, over the questions of all "
    "tasks."
)
_HEADINGS: dict[Figure, str] = {"base": "base, %", "tuned": "tuned, %", "delta": "difference"}
NOTE = f"Differences are paired by question, with 95 % intervals over {FEWEST} questions or more."


def by_topic_tables(scores: ScoresByTopic | None) -> list[Table]:
    """One by topic and, where something is routed, one by expert; none where there are no scores."""
    if scores is None:
        return []
    return [
        _table(title, heading, parts)
        for title, heading, parts in (
            ("Scores by topic", "topic", scores.topics),
            ("Scores by expert", "expert", scores.experts),
        )
        if parts
    ]


def _table(title: str, heading: str, parts: Sequence[PartScores]) -> Table:
    kinds = [kind for kind in _HEADINGS if kind == "tuned" or any(part.base is not None for part in parts)]
    rows = [row(part.part, f"{part.count:,}", *(_figure(part, kind) for kind in kinds)) for part in parts]
    note = NOTE if len(kinds) > 1 else ""
    return Table(title, columns(heading, "n", *(_HEADINGS[kind] for kind in kinds), right=1), rows, note)


def _figure(part: PartScores, kind: Figure) -> str:
    return difference(part) if kind == "delta" else measured(part, kind)


def difference(part: PartScores) -> str:
    """The tuned model's score minus the base's in points, with its interval where it has one."""
    text = points(part.delta)
    return text if part.low is None else f"{text} [{percent(part.low)}, {percent(part.high)}]"
