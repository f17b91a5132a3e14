"""What became of each source of training data, as a table."""

from collections.abc import Sequence

from topiclora_cli.reporting.formats import percent
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.training import SourceReport

_REASONS = ("filtered", "missing", "empty", "duplicates", "contaminated", "surplus", "held_out", "too_long")
LENGTHS = "tokens: median / 95 % / longest"


def sources_table(sources: Sequence[SourceReport], *, title: str = "") -> Table:
    """A row for each source; what happened to no row at all has no column, so that it fits a terminal."""
    reasons = [reason for reason in _REASONS if any(getattr(source, reason) for source in sources)]
    more = [name for name in ("repeated", "tagged") if any(getattr(source, name) for source in sources)]
    keys = ("read", *reasons, "used", *more)
    total = sum(source.weight or 0 for source in sources)
    weighted = total > 0 and len(sources) > 1
    heads = ("source", *(key.replace("_", " ") for key in keys), *(["weight %"] if weighted else []), LENGTHS)
    rows = [
        row(
            source.label,
            *(f"{getattr(source, key):,}" for key in keys),
            *([percent((source.weight or 0) / total)] if weighted else []),
            _lengths(source),
        )
        for source in sources
    ]
    return Table(title, columns(*heads, right=1), rows)


def _lengths(source: SourceReport) -> str:
    lengths = source.lengths
    if lengths is None:  # of an earlier version, which kept the mean of what was used
        return f"mean {source.mean_tokens:,.0f}" if source.used else "-"
    return f"{lengths.median:,.0f} / {lengths.percentile_95:,} / {lengths.longest:,}"
