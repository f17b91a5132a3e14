"""A grid under way: how many of its runs are done, what each is at, and when it may end."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from topiclora_cli.reporting.formats import duration
from topiclora_cli.reporting.grids.scores import cells_table
from topiclora_cli.reporting.table import Column, Table, columns, row
from topiclora_cli.runs.results.ablation import GridScores
from topiclora_cli.runs.results.cells import CellLine

_ORDER = ("done", "tried", "running", "waiting", "failed", "diverged")


@dataclass(frozen=True)
class GridStatus:
    """How far a grid is: its runs, what they have found, and the seconds that the rest may take, at as many at once as
    now; None before there is anything to tell by. begin: the command that begins it; None where somebody has.
    """

    lines: Sequence[CellLine]
    found: GridScores
    left: float | None = None
    begin: str | None = None


def status_tables(status: GridStatus) -> list[Table]:
    """The runs, and the scores so far where there are any; none of a grid that nobody has begun."""
    if status.begin is not None:
        return []
    rows = [
        row(
            line.folder,
            line.state if not line.stage or line.state == "done" else f"{line.state} ({line.stage})",
            "-" if line.seconds is None else duration(line.seconds),
            line.reason,
        )
        for line in status.lines
    ]
    heads = [Column("run", wrap=False), *columns("state", "took", "reason")]
    tables = [Table("", heads, rows, summary(status))]
    return [*tables, cells_table(status.found)] if status.found.cells else tables


def summary(status: GridStatus) -> str:
    """How many runs are in which state, and how long the rest may take."""
    if status.begin is not None:
        return f"No run of this grid has begun, of {len(status.lines)}. Begin with: {status.begin}"
    counts = Counter(line.state for line in status.lines)
    known = [state for state in _ORDER if counts[state]]
    text = f"{len(status.lines)} runs: {', '.join(f'{counts[state]} {state}' for state in known)}."
    if status.left:
        text += f" About {duration(status.left)} to go, at as many at once as now."
    return text


def as_json(status: GridStatus) -> str:
    """All of it, with null for what there is not."""
    return json.dumps(asdict(status), indent=2, ensure_ascii=False)
