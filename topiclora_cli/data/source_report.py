"""What was read: what became of each source's rows, and how many tokens are left of it."""

from collections.abc import Sequence

from topiclora_cli.data.encode import Encoded
from topiclora_cli.data.load import Data
from topiclora_cli.runs.results.training import SourceReport


def source_reports(data: Data, encoded: Sequence[Encoded]) -> list[SourceReport]:
    """What became of each source, `encoded` being what encode_rows left of `data.train`."""
    reports = []
    for number, count in enumerate(data.counts):
        mixed = sum(row.source == number for row in data.train)
        own = [example for example in encoded if example.row.source == number]
        mean = sum(len(example.input_ids) for example in own) / max(1, len(own))
        reports.append(
            SourceReport(
                **vars(count),
                too_long=mixed - len(own),
                used=len(own),
                tagged=sum(bool(example.row.topics) for example in own),
                mean_tokens=round(mean, 1),
            )
        )
    return reports
