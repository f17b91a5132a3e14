"""What was read, as a small table."""

from collections.abc import Sequence

from topiclora_cli.data.missing import list_missing
from topiclora_cli.reporting.sources import sources_table
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.training import SourceReport


def show(reports: Sequence[SourceReport], progress: Progress, *, title: str = "Training data") -> None:
    """Print the table, and of what a source's rows were wanting."""
    table = sources_table(reports, title=title)
    headings, rows = [column.heading for column in table.columns], [[cell.text for cell in each] for each in table.rows]
    progress.table(table.title, headings, rows)
    for report in reports:
        if report.format:
            progress.say(f"{report.label}: read as {report.format}.")
        if report.missing:
            progress.say(f"{report.label}: left out for want of a value: {list_missing(report.wanting)}.")
