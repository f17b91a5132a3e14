"""Cells among one another over tasks and seeds: pairs that are won, ranks, and what no other does for as little."""

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean

from scipy.stats import rankdata

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.pairs import BySeed, paired, some
from topiclora_cli.recipe import BASE
from topiclora_cli.runs.results.ablation import Cost, Standing

_ALIKE = 1e-9  # scores that differ by less are the same
Scores = Mapping[str, float]


def standings(cells: Mapping[str, BySeed], reference: str, *, higher_is_better: bool | None) -> dict[str, Standing]:
    """Of each cell how it stands; nothing where nobody knows which way is better."""
    if higher_is_better is None:
        return dict.fromkeys(cells, Standing())
    sign = 1 if higher_is_better else -1
    ranks, blocks = _ranks(cells, sign)
    found = {}
    for name, by_seed in cells.items():
        pairs = paired(name, by_seed, reference, cells.get(reference, {})) if name != reference else []
        scores = [(_by_task(one), _by_task(two)) for _, one, two in pairs]
        gains = [sign * (ours[task] - theirs[task]) for ours, theirs in scores for task in theirs]
        wins, losses = sum(gain > _ALIKE for gain in gains), sum(gain < -_ALIKE for gain in gains)
        found[name] = Standing(
            wins, len(gains) - wins - losses, losses, ranks.get(name), blocks=blocks, among=len(cells)
        )
    return found


def _ranks(cells: Mapping[str, BySeed], sign: int) -> tuple[dict[str, float], int]:
    """Mean ranks over the tasks and seeds of which every cell has a score, and how many these are."""
    trained = {name: by_seed for name, by_seed in cells.items() if name != BASE}
    if len(cells) < 2 or not trained:
        return {}, 0
    seeds = set.intersection(*(set(by_seed) for by_seed in trained.values()))
    each: dict[str, list[float]] = {name: [] for name in cells}
    blocks = 0
    for seed in sorted(seeds):
        rows = {name: _by_task(some(by_seed) if name == BASE else by_seed[seed]) for name, by_seed in cells.items()}
        for task in next(iter(rows.values())):
            # Sums of the same answers may differ in their last digits.
            values = [round(-sign * row[task], 9) for row in rows.values()]
            for name, rank in zip(rows, rankdata(values), strict=True):
                each[name].append(float(rank))
            blocks += 1
    return {name: fmean(ranks) for name, ranks in each.items() if ranks}, blocks


def mean_cost(costs: list[Cost]) -> Cost:
    """The mean of each figure over the runs that have it."""
    rows = [asdict(cost) for cost in costs]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    return Cost(**{name: fmean(values) if values else None for name, values in known.items()})


def fronts(costs: Mapping[str, Cost], scores: Scores, *, higher_is_better: bool | None) -> dict[str, tuple[str, ...]]:
    """Of each cell the costs by which it is on the Pareto front: no other has as good a score for as little, and
    either a better one or for less.
    """
    if higher_is_better is None:
        return dict.fromkeys(scores, ())
    sign = 1 if higher_is_better else -1
    found: dict[str, list[str]] = {name: [] for name in scores}
    for figure in asdict(Cost()):
        points = {
            name: (value, sign * scores[name]) for name in scores if (value := getattr(costs[name], figure)) is not None
        }
        for name, (cost, score) in points.items():
            beaten = any(
                (other <= cost and theirs >= score) and (other < cost or theirs > score)
                for other, theirs in points.values()
            )
            if not beaten:
                found[name].append(figure)
    return {name: tuple(figures) for name, figures in found.items()}


def _by_task(result: CellResult) -> Scores:
    counted = set(result.mean.of)
    return {row.task: row.tuned for row in result.scores.tasks if row.task in counted}
