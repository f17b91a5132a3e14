"""What probes do to a grid's cells, as tables."""

from collections.abc import Mapping, Sequence

from topiclora_cli.reporting.changes import NAMES, change
from topiclora_cli.reporting.formats import number, percent
from topiclora_cli.reporting.sections import Part, Section, Text
from topiclora_cli.reporting.table import Cell, Table, columns, row
from topiclora_cli.runs.results.probed_cells import JoinedMeans, ProbedCell, ProbedMeasure

_ABOUT = (
    "All cells are asked the same prompts. A probe's change is probed less unprobed; `less {reference}` is the score "
    "under the probe, and its change, less those of {reference}, paired by question and seed, with 95 % intervals; "
    "strong where that leaves out 0. Routing is moved by the Jensen-Shannon divergence of mean gates from the unprobed "
    "prompt's, in nats."
)
_JOINED = (
    "Whether both topics' experts take part: distances of the joined prompt's gates, and of its prior, from the even "
    "mixture of what both questions have alone (both) and from what the asked one has alone (own), in nats; and how "
    "much more weight the other topic's expert has than where the asked question stands alone, in points."
)


def probes(found: Mapping[str, Sequence[ProbedCell]], reference: str) -> Section | None:
    """A section with a table for each probe; None where nothing was probed."""
    if not found:
        return None
    parts: list[Part] = [Text(_ABOUT.format(reference=reference))]
    for probe, cells in found.items():
        measures = [measure for measure in NAMES if any(measure in cell.measures for cell in cells)]
        parts += [_changes(probe, measure, cells, reference) for measure in measures]
        if any(cell.joined for cell in cells):
            parts += [Text(_JOINED), _joined(cells)]
    return Section("Under changed prompts", parts)


def _changes(probe: str, measure: str, cells: Sequence[ProbedCell], reference: str) -> Table:
    rows = []
    for cell in cells:
        found = cell.measures.get(measure)
        if found is not None:
            figures = _figures(found, share=measure == "score")
            rows.append([*row(cell.cell, f"{cell.asked:,}"), *figures, Cell(number(cell.moved))])
    heads = [NAMES[measure], "change", f"less {reference}", f"change less {reference}", "routing moved"]
    return Table(f"Probe {probe}: {NAMES[measure]}", columns("cell", "n", *heads, right=1), rows)


def _figures(found: ProbedMeasure, *, share: bool) -> list[Cell]:
    after = percent(found.after.mean) if share else f"{found.after.mean:.2f}"
    return [Cell(after), *(change(each, share=share) for each in (found.change, found.after_less, found.change_less))]


def _joined(cells: Sequence[ProbedCell]) -> Table:
    heads = ["gates: both", "own", "gates by priors: both", "own", "prior: both", "own", "other's weight"]
    rows = [row(cell.cell, *_distances(cell.joined)) for cell in cells if cell.joined is not None]
    return Table("Two topics in one prompt", columns("cell", *heads, right=1), rows)


def _distances(joined: JoinedMeans) -> list[str]:
    pairs = (joined.gates, joined.gates_from_prior, joined.prior)
    ends = [number(end) for pair in pairs for end in (pair or (None, None))]
    return [*ends, "-" if joined.weight is None else f"{100 * joined.weight:+.1f}"]
