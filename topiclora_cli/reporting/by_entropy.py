"""Scores along the entropy of a question's topics, as tables."""

from collections.abc import Mapping

from topiclora_cli.reporting.formats import percent, points
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.entropy import ByEntropy, Profile
from topiclora_cli.runs.results.interval import Interval

ABOUT = (
    "Entropy is that of p(topic | question) by the topic graph, in nats: low where the graph is sure what a question "
    "is about. Bins are quarters of all questions, intervals of 95 %. The slope is in points per nat, over all "
    "questions and within tasks, where each task's own mean is taken out."
)


def by_entropy_tables(found: ByEntropy | None) -> list[Table]:
    """One of scores and one of differences, in percent and points; none where there are no scores."""
    if found is None:
        return []
    tables = [_table("Scores by the entropy of topics", found, found.profiles, signed=False)]
    if found.differences:
        tables.append(_table("Differences by the entropy of topics", found, found.differences, signed=True))
    return tables


def _table(title: str, found: ByEntropy, profiles: Mapping[str, Profile], *, signed: bool) -> Table:
    ends = list(zip(found.edges, found.edges[1:], strict=False)) or [(found.edges[0], found.edges[0])]
    heads = [f"{low:.2f}-{high:.2f} (n {count:,})" for (low, high), count in zip(ends, found.counts, strict=True)]
    rows = [
        row(
            name,
            *(_interval(each, signed=signed) for each in profile.bins),
            *(_interval(each, signed=True) for each in (profile.slope, profile.within)),
        )
        for name, profile in profiles.items()
    ]
    return Table(title, columns("score", *heads, "slope", "slope within tasks", right=1), rows)


def _interval(found: Interval | None, *, signed: bool) -> str:
    if found is None:
        return "-"
    show = points if signed else percent
    return f"{show(found.mean)} [{show(found.low)}, {show(found.high)}]"
