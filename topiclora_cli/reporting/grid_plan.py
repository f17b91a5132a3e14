"""What a grid would train, before anything is: `topiclora ablate --dry-run`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from topiclora_cli.reporting.formats import duration
from topiclora_cli.reporting.table import Column, Table, row

SAME = 0.01  # a share by which budgets may differ and still be called one
_STATES = {"waiting": "to run", "running": "running", "tried": "tried", "done": "done", "failed": "failed"}


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a grid: what it changes, its trainable parameters in all and per token, steps, and runs by state.

    total, activated: of every size that it is tried at, which is one unless a size is tuned; empty where unknown.
    """

    name: str
    changes: str
    total: Sequence[int]
    activated: Sequence[int]
    steps: int | None
    states: Mapping[str, int]


@dataclass(frozen=True)
class GridPlan:
    """All cells; the seeds; how many trainings a choice of values adds; and the seconds of what is left, if known.

    reference: the cell that others are compared with. failed: what failed in the run so far, and why. finished: the
    runs that the seconds go by.
    """

    cells: Sequence[PlannedCell]
    seeds: Sequence[int]
    reference: str
    tuning: int = 0
    failed: Sequence[str] = ()
    seconds: float | None = None
    finished: int = 0


def plan_table(plan: GridPlan) -> Table:
    """A row for every cell."""
    headings = ("cell", "changes", "trainable", "activated", "steps", "runs")
    columns = [Column(name, "right" if name in ("trainable", "activated", "steps") else "left") for name in headings]
    rows = [
        row(cell.name, cell.changes, _span(cell.total), _span(cell.activated), _count(cell.steps), _runs(cell.states))
        for cell in plan.cells
    ]
    return Table("Planned", columns, rows)


def plan_lines(plan: GridPlan) -> Iterator[str]:
    """What the table does not say: how much it is together, what tuning adds, and what is not alike."""
    states: dict[str, int] = {}
    for cell in plan.cells:
        for state, number in cell.states.items():
            states[state] = states.get(state, 0) + number
    cells, seeds, runs = _many(len(plan.cells), "cell"), _many(len(plan.seeds), "seed"), sum(states.values())
    yield f"{cells} over {seeds}: {_many(runs, 'run')}, {_runs(states)}."
    if plan.tuning:
        yield f"Of these, choosing values adds {_many(plan.tuning, 'training')} at seed {plan.seeds[0]}."
    if plan.seconds is not None:
        yield f"What is left takes about {duration(plan.seconds)}, going by {_many(plan.finished, 'finished run')}."
    for kind, sizes in (("Trainable", "total"), ("Activated", "activated")):
        if unlike := _unlike(plan, sizes):
            yield (
                f"Warning: {kind.lower()} parameters differ by more than 1 % from those of {_compared(plan).name}: "
                f"{', '.join(unlike)}."
            )
    for line in plan.failed:
        yield f"Failed: {line}"


def _compared(plan: GridPlan) -> PlannedCell:
    """The reference, or the first cell that has a size where that has none."""
    sized = [cell for cell in plan.cells if any(cell.total)]
    return next((cell for cell in sized if cell.name == plan.reference), sized[0])


def _unlike(plan: GridPlan, sizes: str) -> Sequence[str]:
    """Cells of another size than the reference, each with the factor."""
    if not any(any(cell.total) for cell in plan.cells):
        return []
    wanted = getattr(_compared(plan), sizes)
    found = []
    for cell in plan.cells:
        own = getattr(cell, sizes)
        factor = max((size / one for size in own for one in wanted), key=lambda f: max(f, 1 / f) if f else 0, default=1)
        if own and any(own) and abs(factor - 1) > SAME:
            found.append(f"{cell.name} ({factor:.2f} x)")
    return found


def _many(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"{number} {what}s"


def _span(sizes: Sequence[int]) -> str:
    if not sizes:
        return "unknown"
    return f"{min(sizes):,}" if len(set(sizes)) == 1 else f"{min(sizes):,} to {max(sizes):,}"


def _count(steps: int | None) -> str:
    return "unknown" if steps is None else f"{steps:,}"


def _runs(states: Mapping[str, int]) -> str:
    return ", ".join(f"{states[state]} {_STATES.get(state, state)}" for state in sorted(states))
