"""What was read: what became of each source's rows, and how long the examples are that are left of it."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence

from topiclora_cli.data.clean import Repetitions
from topiclora_cli.data.encode import Encoded
from topiclora_cli.data.load import Data
from topiclora_cli.runs.results.training import Lengths, SourceReport


def source_reports(data: Data, every: Sequence[Encoded], *, max_length: int) -> list[SourceReport]:
    """What became of each source, `every` being what encode_every made of `data.train`."""
    mixed = Counter(row.source for row in data.train)
    repeated = _repeated([example for example in every if len(example.input_ids) <= max_length])
    reports = []
    for number, count in enumerate(data.counts):
        own = [example for example in every if example.row.source == number]
        used = [example for example in own if len(example.input_ids) <= max_length]
        mean = sum(len(example.input_ids) for example in used) / max(1, len(used))
        reports.append(
            SourceReport(
                **vars(count),
                too_long=mixed[number] - len(used),
                used=len(used),
                tagged=sum(bool(example.row.topics) for example in used),
                mean_tokens=round(mean, 1),
                repeated=repeated[number],
                lengths=_lengths([len(example.input_ids) for example in own]),
            )
        )
    return reports


def _repeated(used: Sequence[Encoded]) -> Counter[int]:
    """How many examples of each source have the texts of one before; what a mixture draws anew counts once."""
    known, drawn = Repetitions("exact"), {id(example.row): example.row for example in used}
    return Counter(row.source for row in drawn.values() if known(row))


def _lengths(tokens: Sequence[int]) -> Lengths | None:
    if not tokens:
        return None
    ranked = sorted(tokens)
    return Lengths(statistics.median(ranked), ranked[math.ceil(0.95 * len(ranked)) - 1], ranked[-1])
