"""What became of each source of training data, as a table."""

from collections.abc import Sequence

from topiclora_cli.reporting.formats import percent
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.training import Lengths, SourceReport

_REASONS = ("filtered", "missing", "empty", "duplicates", "contaminated", "surplus", "held_out", "too_long")
LENGTHS = "tokens: median / 95 % / longest"


def sources_table(sources: Sequence[SourceReport], *, title: str = "") -> Table:
    """A row for each source; what happened to no row at all has no column, so that it fits a terminal."""
    numbers = [vars(source) for source in sources]
    reasons = [reason for reason in _REASONS if any(each[reason] for each in numbers)]
    more = [name for name in ("repeated", "tagged") if any(each[name] for each in numbers)]
    keys = ("read", *reasons, "used", *more)
    total = sum(source.weight or 0 for source in sources)
    weighted = total > 0 and len(sources) > 1
    heads = ("source", *(key.replace("_", " ") for key in keys), *(["weight %"] if weighted else []), LENGTHS)
    rows = [
        row(
            each["label"],
            *(f"{each[key]:,}" for key in keys),
            *([percent(each["weight"] / total)] if weighted else []),
            _lengths(each["lengths"]),
        )
        for each in numbers
    ]
    return Table(title, columns(*heads, right=1), rows)


def _lengths(lengths: Lengths | None) -> str:
    return "-" if lengths is None else f"{lengths.median:,.0f} / {lengths.percentile_95:,} / {lengths.longest:,}"
