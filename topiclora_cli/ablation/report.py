"""The grid's outcome on disk: a table to read and JSON to compute with."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.files import write_json, write_text
from topiclora_cli.formats import measure, metric_label, number

if TYPE_CHECKING:
    from topiclora_cli.ablation.runner import CellScore

_HEADER = """# Ablation

{metric}: mean over tasks, mean and standard deviation over seeds; `vs full` is paired by seed.
`KL` is the last training value of the routing loss, `MI` the mutual information of topic and expert in nats.

| cell | seeds | score | deviation | vs full | KL | MI |
| --- | --- | --- | --- | --- | --- | --- |
"""


def write_report(folder: Path, scores: Sequence["CellScore"], grid: Sequence[Cell]) -> None:
    """Write report.md and results.json into `folder`."""
    rows = [
        f"| {s.name} | {s.seeds} | {measure(s.mean, s.unit)} | {measure(s.deviation, s.unit)} "
        f"| {measure(s.against_full, s.unit, signed=True)} | {number(s.kl)} | {number(s.mutual_information)} |"
        for s in scores
    ]
    steps = sorted({str(cell.recipe.train.max_steps) for cell in grid})
    note = f"\nEvaluated on {', '.join(grid[0].recipe.eval.tasks)}; max_steps {', '.join(steps)}.\n"
    write_text(
        folder / "report.md",
        _HEADER.format(metric=metric_label(scores[0].metric, asdict(scores[0]))) + "\n".join(rows) + "\n" + note,
    )
    write_json(folder / "results.json", [asdict(score) for score in scores])
