"""What became of each source of training data, as a table."""

from collections.abc import Sequence

from topiclora_cli.reporting.formats import percent
from topiclora_cli.reporting.table import Table, columns, row
from topiclora_cli.runs.results.training import SourceReport

_REASONS = ("filtered", "missing", "empty", "duplicates", "contaminated", "surplus", "held_out", "too_long")


def sources_table(sources: Sequence[SourceReport], *, title: str = "") -> Table:
    """A row for each source; what happened to no row at all has no column, so that it fits a terminal."""
    numbers = [vars(source) for source in sources]
    reasons = [reason for reason in _REASONS if any(each[reason] for each in numbers)]
    keys = ("read", *reasons, "used", "tagged")
    total = sum(source.weight or 0 for source in sources)
    weighted = total > 0 and len(sources) > 1
    heads = ("source", *(key.replace("_", " ") for key in keys), *(["weight %"] if weighted else []), "mean tokens")
    rows = [
        row(
            each["label"],
            *(f"{each[key]:,}" for key in keys),
            *([percent(each["weight"] / total)] if weighted else []),
            f"{each['mean_tokens']:.0f}",
        )
        for each in numbers
    ]
    return Table(title, columns(*heads, right=1), rows)
