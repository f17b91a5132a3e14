"""What was read: what became of each source's rows, and how many tokens are left of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from topiclora_cli.data.encode import Encoded
from topiclora_cli.data.load import Data
from topiclora_cli.data.reading import SourceCount


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
