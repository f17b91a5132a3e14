"""What a grid has found so far: each cell over its seeds, and its difference from others on the same questions."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.work import Work
from topiclora_cli.evaluation.comparison.intervals import paired_interval
from topiclora_cli.evaluation.metrics import CHOICE_LOSS
from topiclora_cli.recipe import BASE, FULL
from topiclora_cli.reporting.formats import mean_name
from topiclora_cli.runs.results.ablation import LEVELS, CellScore, Interval, Measure, Tried

BySeed = Mapping[int, CellResult]


def score_cells(work: Work, reference: str) -> list[CellScore]:
    """The cells of which a seed is finished, compared with `reference` and with `full`."""
    finished: dict[str, dict[int, CellResult]] = {}
    for cell in work.grid:
        if work.is_chosen(cell) and (result := work.result(cell)) is not None:
            finished.setdefault(cell.name, {})[cell.seed] = result
    return [score_cell(name, by_seed, finished, work, reference) for name, by_seed in finished.items()]


def score_cell(
    name: str, by_seed: BySeed, finished: Mapping[str, BySeed], work: Work | None = None, reference: str = FULL
) -> CellScore:
    """One cell of those that are finished; work knows what was tuned."""
    some = next(iter(by_seed.values()))
    means = [result.mean.tuned for result in by_seed.values()]
    full = finished.get(FULL, {})
    gains = [own.mean.tuned - other.mean.tuned for _, own, other in paired(name, by_seed, FULL, full)]
    kls = [result.losses["loss_kl"] for result in by_seed.values() if "loss_kl" in result.losses]
    routings = [result.scores.routing for result in by_seed.values()]
    information = [routing.mutual_information for routing in routings if routing is not None]
    choice = work.choice(name) if work is not None else None
    losses = choice.losses.items() if choice else ()
    others = {other: finished[other] for other in (reference, FULL) if other in finished and other != name}
    return CellScore(
        name=name,
        seeds=len(means),
        metric=mean_name(some.mean, some.scores.tasks),
        unit=some.mean.unit,
        higher_is_better=some.mean.higher_is_better,
        mean=fmean(means),
        deviation=stdev(means) if len(means) > 1 else None,
        against_full=fmean(gains) if gains else None,
        kl=fmean(kls) if kls else None,
        mutual_information=fmean(information) if information else None,
        parameters=some.parameters,
        tuned=dict(choice.values) if choice else {},
        edges=tuple(choice.edges) if choice else (),
        tried=tuple(Tried(dict(values), loss if math.isfinite(loss) else None) for values, loss in losses),
        measures=_measures(name, by_seed, others),
    )


def paired(name: str, by_seed: BySeed, other_name: str, other: BySeed) -> list[tuple[int, CellResult, CellResult]]:
    """The seeds of which both cells have a result; the base has the same for every one."""
    if name == BASE or other_name == BASE:
        base, trained = (by_seed, other) if name == BASE else (other, by_seed)
        pairs = [(seed, each) for seed, each in trained.items()]
        single = next(iter(base.values()), None)
        if single is None:
            return []
        return [(seed, single, each) if name == BASE else (seed, each, single) for seed, each in pairs]
    return [(seed, own, other[seed]) for seed, own in by_seed.items() if seed in other]


def _measures(name: str, by_seed: BySeed, others: Mapping[str, BySeed]) -> dict[str, Measure]:
    some = next(iter(by_seed.values()))
    measures = {}
    for metric in (mean_name(some.mean, some.scores.tasks), CHOICE_LOSS):
        values = [_by_task(result, metric) for result in by_seed.values()]
        if not all(values):
            continue
        seeds = {
            "tasks": [fmean(float(task.mean()) for task in tasks) for tasks in values],
            "questions": [float(np.concatenate(tasks).mean()) for tasks in values],
        }
        loss = metric == CHOICE_LOSS
        against = {}
        for other_name, other in others.items():
            pairs = [
                (_by_task(one, metric), _by_task(two, metric))
                for _, one, two in paired(name, by_seed, other_name, other)
            ]
            if found := _intervals(pairs):
                against[other_name] = found
        measures[metric] = Measure(
            unit="nats" if loss else some.mean.unit,
            higher_is_better=False if loss else some.mean.higher_is_better,
            mean={level: fmean(each) for level, each in seeds.items()},
            deviation={level: stdev(each) if len(each) > 1 else None for level, each in seeds.items()},
            against=against,
        )
    return measures


def _intervals(pairs: Sequence[tuple[list[Any], list[Any]]]) -> dict[str, Interval]:
    """None of cells that were not asked the same."""
    sizes = {tuple(len(task) for task in tasks) for pair in pairs for tasks in pair}
    if len(sizes) != 1 or sizes == {()}:
        return {}
    tasks = range(len(sizes.pop()))
    differences = [np.stack([one[task] - two[task] for one, two in pairs]) for task in tasks]
    return {level: paired_interval(differences, by_task=level == "tasks") for level in LEVELS}


def _by_task(result: CellResult, metric: str) -> list[Any]:
    """What every question of each task that counts adds to its headline metric, or to the choice loss.

    Empty where one has none.
    """
    rows = {row.task: row for row in result.scores.tasks}
    found = []
    for task in result.mean.of:
        name = CHOICE_LOSS if metric == CHOICE_LOSS else rows[task].metric
        scores = result.by_question.get(task, {}).get(f"{name},{rows[task].filter}")
        if not scores:
            return []
        found.append(np.array(scores))
    return found
