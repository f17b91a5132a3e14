"""What probes do to the cells of a grid, which are all asked the same changed prompts."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.pairs import BySeed, paired
from topiclora_cli.evaluation.comparison.intervals import paired_interval
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.probed_cells import JoinedMeans, ProbedCell, ProbedMeasure
from topiclora_cli.runs.results.routing import MEASURES, Joined, Probed

Array = np.ndarray
Ends = tuple[Interval, Interval]


def cells_by_probe(finished: Mapping[str, BySeed], reference: str) -> dict[str, tuple[ProbedCell, ...]]:
    """Every probe that cells were asked under, with these cells, compared with the reference by question and seed."""
    results = [result for by_seed in finished.values() for result in by_seed.values()]
    names = dict.fromkeys(each.probe for result in results if result.probes for each in result.probes.probes)
    return {
        probe: tuple(row for name in finished if (row := _cell(probe, name, finished, reference)) is not None)
        for probe in names
    }


def _cell(probe: str, name: str, finished: Mapping[str, BySeed], reference: str) -> ProbedCell | None:
    by_seed = finished[name]
    rows = [row for result in by_seed.values() if (row := _probed(result, probe)) is not None]
    if not rows or len(rows) < len(by_seed):
        return None
    pairs = [
        (one, two)
        for _, own, other in paired(name, by_seed, reference, finished.get(reference, {}))
        if name != reference and (one := _probed(own, probe)) and (two := _probed(other, probe))
    ]
    moved = [row.moved.mean for row in rows if row.moved is not None]
    found = {measure: _measure(measure, rows, pairs) for measure in MEASURES}
    return ProbedCell(
        cell=name,
        seeds=len(rows),
        asked=rows[0].asked,
        measures={measure: each for measure, each in found.items() if each is not None},
        moved=fmean(moved) if moved else None,
        joined=_joined([row.joined for row in rows if row.joined is not None]),
    )


def _probed(result: CellResult, probe: str) -> Probed | None:
    rows = result.probes.probes if result.probes is not None else ()
    return next((row for row in rows if row.probe == probe), None)


def _measure(measure: str, rows: Sequence[Probed], pairs: Sequence[tuple[Probed, Probed]]) -> ProbedMeasure | None:
    """None of questions that have no such measure."""
    afters = _alike([_after(row, measure) for row in rows])
    changes = _alike([_change(row, measure) for row in rows])
    if afters is None or changes is None:
        return None
    return ProbedMeasure(
        after=_interval(afters),
        change=_interval(changes),
        after_less=_less([(_after(one, measure), _after(two, measure)) for one, two in pairs]),
        change_less=_less([(_change(one, measure), _change(two, measure)) for one, two in pairs]),
    )


def _after(row: Probed, measure: str) -> Array:
    return np.array(row.by_question[measure].after) if measure in row.by_question else np.empty(0)


def _change(row: Probed, measure: str) -> Array:
    return (
        _after(row, measure) - np.array(row.by_question[measure].before) if measure in row.by_question else np.empty(0)
    )


def _less(pairs: Sequence[tuple[Array, Array]]) -> Interval | None:
    if not pairs or any(len(one) != len(two) for one, two in pairs):
        return None
    differences = _alike([one - two for one, two in pairs])
    return None if differences is None else _interval(differences)


def _alike(seeds: Sequence[Array]) -> Array | None:
    """Values of as many questions in each seed (seeds, questions); None where there are none, or they differ."""
    return np.stack(seeds) if len({len(each) for each in seeds}) == 1 and len(seeds[0]) else None


def _interval(values: Array) -> Interval:
    return paired_interval([values], by_task=False)


def _joined(seeds: Sequence[Joined]) -> JoinedMeans | None:
    gates = _means([each.gates for each in seeds])
    if gates is None:
        return None
    weights = [each.weight.mean for each in seeds if each.weight is not None]
    return JoinedMeans(
        gates=gates,
        gates_from_prior=_means([each.gates_from_prior for each in seeds]),
        prior=_means([each.prior for each in seeds]),
        weight=fmean(weights) if weights else None,
    )


def _means(ends: Sequence[Ends | None]) -> tuple[float, float] | None:
    known = [each for each in ends if each is not None]
    return (fmean(both.mean for both, _ in known), fmean(own.mean for _, own in known)) if known else None
