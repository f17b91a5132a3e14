"""The cells of a grid as a table for the terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from topiclora_cli.reporting.formats import measure, metric_label, number

if TYPE_CHECKING:
    from topiclora_cli.ablation.scores import CellScore


def ablation_table(scores: Sequence["CellScore"]) -> Table:
    """Cells by score and deviation over seeds."""
    title = f"Ablation: {metric_label(scores[0].metric, asdict(scores[0]))}"
    columns = ("cell", "seeds", "score", "dev.", "vs full", "KL", "MI")
    table = Table(*columns, title=title, title_justify="left", box=None)
    for s in scores:
        table.add_row(
            s.name,
            str(s.seeds),
            measure(s.mean, s.unit),
            measure(s.deviation, s.unit),
            measure(s.against_full, s.unit, signed=True),
            number(s.kl),
            number(s.mutual_information),
        )
    return table
