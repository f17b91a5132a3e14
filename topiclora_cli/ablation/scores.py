"""What a grid has found so far: each cell over its seeds, what it costs, and how it stands beside the others."""

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, stdev

from topiclora_cli.ablation.by_entropy import cells_by_entropy
from topiclora_cli.ablation.by_probe import cells_by_probe
from topiclora_cli.ablation.differences import against, measures
from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.pairs import BySeed, metric_of, oddity, paired, some
from topiclora_cli.ablation.standings import fronts, mean_cost, standings
from topiclora_cli.ablation.topics import cells_by_topic, sorting_cell
from topiclora_cli.ablation.work import Work
from topiclora_cli.recipe import FULL, Recipe
from topiclora_cli.runs.results.ablation import CellRun, CellScore, GridScores, TaskScore, Tried


def score_cells(work: Work, reference: str) -> GridScores:
    """The cells of which a seed is finished, compared with `reference` and with `full`."""
    finished: dict[str, dict[int, CellResult]] = {}
    recipes: dict[str, Recipe] = {}
    for cell in work.asked:
        recipes.setdefault(cell.name, cell.recipe)
    for cell in work.grid:
        if work.is_chosen(cell) and (result := work.result(cell)) is not None:
            finished.setdefault(cell.name, {})[cell.seed] = result
    scores = [_with_choice(score, work) for score in compare_cells(finished, reference, recipes=recipes)]
    alike = {score.name: finished[score.name] for score in scores if not score.odd}
    return GridScores(
        tuple(scores),
        reference,
        cells_by_entropy(alike, reference),
        cells_by_probe(alike, reference),
        sorting_cell(alike, reference),
    )


def compare_cells(
    finished: Mapping[str, BySeed], reference: str, *, recipes: Mapping[str, Recipe] | None = None
) -> list[CellScore]:
    """Each cell with its differences, ranks and costs; recipes: of all cells of the grid, finished or not.

    What was scored by another metric, or asked something else, than the reference (or the first cell, before that is
    there) has a word on it, and is compared with nothing.
    """
    recipes = recipes or {}
    first = finished.get(reference) or next(iter(finished.values()), {})
    odd = {
        name: oddity(by_seed, recipes.get(name), first, recipes.get(reference)) if by_seed is not first else ""
        for name, by_seed in finished.items()
    }
    cells = {name: by_seed for name, by_seed in finished.items() if not odd[name]}
    scores = {name: _score_cell(name, by_seed, cells.get(FULL, {})) for name, by_seed in finished.items()}
    if not cells:
        return list(scores.values())
    way = some(first).mean.higher_is_better
    standing = standings(cells, reference, higher_is_better=way)
    on_front = fronts(
        {name: scores[name].cost for name in cells}, {name: scores[name].mean for name in cells}, higher_is_better=way
    )
    family = len({*recipes, *finished} - {reference})
    others = [name for name in dict.fromkeys((reference, FULL)) if name in cells]
    found = {
        (other, metric): against(
            cells, other, metric, family=family if other == reference and metric == scores[other].metric else 0
        )
        for other in others
        for metric in scores[other].measures
    }
    topics = cells_by_topic(cells, reference)
    for name in cells:
        compared = {
            metric: replace(
                measure,
                against={
                    other: found[other, metric][name] for other in others if name in found.get((other, metric), {})
                },
            )
            for metric, measure in scores[name].measures.items()
        }
        scores[name] = replace(
            scores[name],
            measures=compared,
            standing=standing[name],
            fronts=on_front[name],
            topics=topics[name],
        )
    return [replace(score, odd=odd[name]) for name, score in scores.items()]


def _score_cell(name: str, by_seed: BySeed, full: BySeed) -> CellScore:
    """A cell by itself, but for its gain over `full`."""
    first = some(by_seed)
    means = [result.mean.tuned for result in by_seed.values()]
    gains = [own.mean.tuned - other.mean.tuned for _, own, other in paired(name, by_seed, FULL, full)]
    kls = [result.losses["loss_kl"] for result in by_seed.values() if "loss_kl" in result.losses]
    routings = [result.scores.routing for result in by_seed.values()]
    information = [routing.mutual_information for routing in routings if routing is not None]
    parameters = first.cost.parameters
    return CellScore(
        name=name,
        seeds=len(means),
        metric=metric_of(by_seed),
        unit=first.mean.unit,
        higher_is_better=first.mean.higher_is_better,
        mean=fmean(means),
        deviation=stdev(means) if len(means) > 1 else None,
        against_full=fmean(gains) if gains else None,
        kl=fmean(kls) if kls else None,
        mutual_information=fmean(information) if information else None,
        parameters=None if parameters is None else int(parameters),
        measures=measures(by_seed),
        runs=tuple(_run(seed, result) for seed, result in by_seed.items()),
        cost=mean_cost([result.cost for result in by_seed.values()]),
    )


def _run(seed: int, result: CellResult) -> CellRun:
    tasks = tuple(
        TaskScore(
            task=row.task,
            metric=row.metric,
            filter=row.filter,
            unit=row.unit,
            higher_is_better=row.higher_is_better,
            count=row.count,
            score=row.tuned,
            stderr=row.tuned_stderr,
        )
        for row in result.scores.tasks
        if row.task in result.mean.of
    )
    return CellRun(
        seed, result.folder, result.evaluation, result.settings, mean=result.mean.tuned, tasks=tasks, cost=result.cost
    )


def _with_choice(score: CellScore, work: Work) -> CellScore:
    """With what was tuned for it, and what it is to answer."""
    choice = work.choice(score.name)
    if choice is None:
        return score
    tried = tuple(Tried(dict(values), loss if math.isfinite(loss) else None) for values, loss in choice.losses.items())
    return replace(score, tuned=dict(choice.values), edges=tuple(choice.edges), tried=tried)
