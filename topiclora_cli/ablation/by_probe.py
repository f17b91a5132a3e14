"""What probes do to the cells of a grid, which are all asked the same changed prompts."""

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean

import numpy as np

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.pairs import BySeed, paired
from topiclora_cli.evaluation.comparison.parts import mean_intervals
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.probed_cells import JoinedMeans, ProbedCell, ProbedMeasure
from topiclora_cli.runs.results.routing import MEASURES, Joined, Probed

Array = np.ndarray
Ends = tuple[Interval, Interval]
Figure = tuple[str, str]  # of a cell, and what of ProbedMeasure it is


def cells_by_probe(finished: Mapping[str, BySeed], reference: str) -> dict[str, tuple[ProbedCell, ...]]:
    """Every probe that cells were asked under, with these cells, compared with the reference by question and seed."""
    results = [result for by_seed in finished.values() for result in by_seed.values()]
    names = dict.fromkeys(each.probe for result in results if result.probes for each in result.probes.probes)
    return {probe: _cells(probe, finished, reference) for probe in names}


def _cells(probe: str, finished: Mapping[str, BySeed], reference: str) -> tuple[ProbedCell, ...]:
    """The cells that were asked under it with every seed."""
    rows, pairs = {}, {}
    for name, by_seed in finished.items():
        own = [row for result in by_seed.values() if (row := _probed(result, probe)) is not None]
        if own and len(own) == len(by_seed):
            rows[name] = own
            pairs[name] = [
                (one, two)
                for _, ours, theirs in paired(name, by_seed, reference, finished.get(reference, {}))
                if name != reference and (one := _probed(ours, probe)) and (two := _probed(theirs, probe))
            ]
    measures = {measure: _measures(measure, rows, pairs) for measure in MEASURES}
    return tuple(
        ProbedCell(
            cell=name,
            seeds=len(own),
            asked=own[0].asked,
            measures={measure: found[name] for measure, found in measures.items() if name in found},
            moved=fmean(moved) if (moved := [row.moved.mean for row in own if row.moved is not None]) else None,
            joined=_joined([row.joined for row in own if row.joined is not None]),
        )
        for name, own in rows.items()
    )


def _probed(result: CellResult, probe: str) -> Probed | None:
    rows = result.probes.probes if result.probes is not None else ()
    return next((row for row in rows if row.probe == probe), None)


def _measures(
    measure: str, rows: Mapping[str, Sequence[Probed]], pairs: Mapping[str, Sequence[tuple[Probed, Probed]]]
) -> dict[str, ProbedMeasure]:
    """By cell, of those whose questions have such a measure."""
    every = [*chain(*rows.values()), *chain(*chain(*pairs.values()))]
    values = {id(row): _values(row, measure) for row in {id(row): row for row in every}.values()}
    sides: dict[Figure, Array] = {}
    for name, own in rows.items():
        known = _alike([values[id(row)] for row in own])
        less = _less([(values[id(one)], values[id(two)]) for one, two in pairs[name]])
        if known is not None:
            sides |= {(name, figure): known[:, place] for place, figure in enumerate(("after", "change"))}
        if known is not None and less is not None:
            sides |= {(name, figure): less[:, place] for place, figure in enumerate(("after_less", "change_less"))}
    found = _intervals(sides)
    return {
        name: ProbedMeasure(
            after=found[name, "after"],
            change=found[name, "change"],
            after_less=found.get((name, "after_less")),
            change_less=found.get((name, "change_less")),
        )
        for name in rows
        if (name, "after") in found
    }


def _values(row: Probed, measure: str) -> Array:
    """Of every question that has the measure what it is under the probe, and what the probe changes (2, questions)."""
    if measure not in row.by_question:
        return np.empty((2, 0))
    before, after = (np.array(each) for each in (row.by_question[measure].before, row.by_question[measure].after))
    return np.stack([after, after - before])


def _less(pairs: Sequence[tuple[Array, Array]]) -> Array | None:
    if not pairs or any(one.shape != two.shape for one, two in pairs):
        return None
    return _alike([one - two for one, two in pairs])


def _alike(seeds: Sequence[Array]) -> Array | None:
    """Values of as many questions in each seed (seeds, 2, questions); None where there are none, or they differ."""
    return np.stack(seeds) if len({each.shape for each in seeds}) == 1 and seeds[0].size else None


def _intervals(sides: Mapping[Figure, Array]) -> dict[Figure, Interval]:
    """The interval of each, those of as many questions drawn alike."""
    groups: dict[int, list[Figure]] = {}
    for figure, side in sides.items():
        groups.setdefault(side.shape[1], []).append(figure)
    found: dict[Figure, Interval] = {}
    for figures in groups.values():
        found |= dict(zip(figures, mean_intervals([sides[figure] for figure in figures]), strict=True))
    return found


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
