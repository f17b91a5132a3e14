"""What was read, as a small table."""

from collections.abc import Sequence

from topiclora_cli.data.missing import told
from topiclora_cli.data.report import SourceReport
from topiclora_cli.reporting.formats import percent
from topiclora_cli.runs.progress import Progress

_REASONS = ("filtered", "missing", "empty", "duplicates", "contaminated", "surplus", "held_out", "too_long")


def show(reports: Sequence[SourceReport], progress: Progress, *, title: str = "Training data") -> None:
    """Print the table; what happened to no row at all has no column, so that it fits a terminal."""
    total = sum(report.count.weight or 0 for report in reports)
    dicts = [report.as_dict() for report in reports]
    reasons = [reason for reason in _REASONS if any(numbers[reason] for numbers in dicts)]
    weighted = total > 0 and len(reports) > 1
    columns = ["source", "read", *(reason.replace("_", " ") for reason in reasons), "used", "tagged"]
    rows = [
        [
            numbers["label"],
            *(str(numbers[key]) for key in ("read", *reasons, "used", "tagged")),
            *([percent(numbers["weight"] / total)] if weighted else []),
            f"{numbers['mean_tokens']:.0f}",
        ]
        for numbers in dicts
    ]
    progress.table(title, [*columns, *(["weight %"] if weighted else []), "mean tokens"], rows)
    for report in reports:
        if report.count.missing:
            progress.say(f"{report.count.label}: left out for want of a value: {told(report.count.wanting)}.")
