"""What was read, as a small table: what became of each source's rows, and how many tokens are left of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from topiclora_cli.formats import percent
from topiclora_cli.progress import Progress
from topiclora_cli.training.data.encode import Encoded
from topiclora_cli.training.data.load import Data
from topiclora_cli.training.data.missing import told
from topiclora_cli.training.data.reading import SourceCount

_REASONS = ("filtered", "missing", "empty", "duplicates", "contaminated", "surplus", "held_out", "too_long")


@dataclass(frozen=True)
class SourceReport:
    """Of one source: what was left out; of what is trained on how many, how many with topics, and the mean length."""

    count: SourceCount
    too_long: int
    used: int
    tagged: int
    mean_tokens: float

    def as_dict(self) -> dict[str, Any]:
        """All numbers on one level."""
        return {
            **asdict(self.count),
            "too_long": self.too_long,
            "used": self.used,
            "tagged": self.tagged,
            "mean_tokens": round(self.mean_tokens, 1),
        }


def source_reports(data: Data, encoded: Sequence[Encoded]) -> list[SourceReport]:
    """What became of each source, `encoded` being what encode_rows left of `data.train`."""
    reports = []
    for number, count in enumerate(data.counts):
        mixed = sum(row.source == number for row in data.train)
        own = [example for example in encoded if example.row.source == number]
        tagged = sum(bool(example.row.topics) for example in own)
        mean = sum(len(example.input_ids) for example in own) / max(1, len(own))
        reports.append(SourceReport(count, mixed - len(own), len(own), tagged, mean))
    return reports


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
