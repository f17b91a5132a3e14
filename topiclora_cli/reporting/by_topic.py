"""Scores by the topics of questions and by the experts that took them, as tables."""

from collections.abc import Sequence

from topiclora_cli.reporting.formats import Figure, measured
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.evaluation import PartScores, ScoresByTopic

ABOUT = (
    "A question's topic is its data's own, else the one that the run's graph finds it most about; its expert is the "
    "one with the largest mean gate over its tokens. Scores are each task's headline metric, over the questions of all "
    "tasks."
)
_HEADINGS: dict[Figure, str] = {"base": "base, %", "tuned": "tuned, %", "delta": "difference"}


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
    rows = [row(part.part, f"{part.count:,}", *(measured(part, kind) for kind in kinds)) for part in parts]
    return Table(title, columns(heading, "n", *(_HEADINGS[kind] for kind in kinds), right=1), rows)
