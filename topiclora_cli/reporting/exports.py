"""How far an export is from the routed model: as a whole, by rank, by task, and which topic loses what."""

from collections.abc import Sequence

from topiclora_cli.reporting.formats import number, percent
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.export import Export, GapPart, TaskGap

MOST_TOPICS = 12
_GAP = ("KL, nats", "same top token, %", "perplexity", "tokens")


def export_tables(export: Export, *, most: int | None = None) -> list[Table]:
    """What an export costs beside the routed model, each part of it read back from disk; most: topics to show."""
    tables = []
    if export.models:
        note = (
            ""
            if export.routed_perplexity is None
            else f"The routed model's perplexity is {number(export.routed_perplexity)}."
        )
        tables.append(_parts("Beside the routed model, over answer tokens", "read back", export.models, note=note))
    if export.ranks:
        tables.append(_parts("Cut to other ranks", "rank", export.ranks))
    if export.tasks:
        tables.append(_tasks(export.tasks))
    if export.topics:
        shown = export.topics[:most]
        left = len(export.topics) - len(shown)
        note = f"and {left} more topics that lose less: see report.md" if left else ""
        tables.append(_parts("Which topic loses what", "topic", shown, note=note))
    return tables


def _parts(title: str, heading: str, parts: Sequence[GapPart], *, note: str = "") -> Table:
    rows = [
        row(part.name, f"{part.kl:.4f}", percent(part.agreement), number(part.perplexity), f"{part.tokens:,}")
        for part in parts
    ]
    return Table(title, columns(heading, *_GAP, right=1), rows, note)


def _tasks(tasks: Sequence[TaskGap]) -> Table:
    rows = [
        row(task.task, task.metric, *map(number, (task.base, task.routed, task.export)), percent(task.retained))
        for task in tasks
    ]
    headings = ("task", "metric", "base", "routed", "export", "gain kept, %")
    return Table("Scores of the export", columns(*headings, right=2), rows)
