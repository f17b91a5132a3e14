"""A grid's scores along the entropy of a question's topics, by one cell's graph for all of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.pairs import BySeed, paired
from topiclora_cli.evaluation.by_entropy import Entropies, scores_by_entropy
from topiclora_cli.recipe import FULL
from topiclora_cli.runs.results.entropy import ByEntropy

Array = np.ndarray


def cells_by_entropy(finished: Mapping[str, BySeed], reference: str) -> ByEntropy | None:
    """Every cell's scores, and its differences from the reference, along entropies that are the same for all.

    They are those by the graph of the reference or, where it has none, of `full` or the first that has: a mean over its
    seeds. Cells that were asked something else are left out. None where no cell knows any.
    """
    names = dict.fromkeys(name for name in (reference, FULL, *finished) if name in finished)
    graph = next((name for name in names if any(each.entropy for each in finished[name].values())), None)
    if graph is None:
        return None
    known = [(result, result.entropy) for result in finished[graph].values() if result.entropy]
    some, first = known[0]
    tasks = [row.task for row in some.scores.tasks if row.task in some.mean.of and row.unit == "share"]
    tasks = [task for task in tasks if task in first]
    if not tasks:
        return None
    by_task = {task: np.mean([entropy[task] for _, entropy in known], axis=0) for task in tasks}
    asked = {id(each): _scores(each, by_task) for by_seed in finished.values() for each in by_seed.values()}
    found = {name: [asked[id(each)] for each in by_seed.values()] for name, by_seed in finished.items()}
    differences = {}
    for name, by_seed in finished.items():
        pairs = [
            (asked[id(own)], asked[id(other)])
            for _, own, other in paired(name, by_seed, reference, finished.get(reference, {}))
        ]
        if name != reference and pairs and all(one and two for one, two in pairs):
            differences[f"{name} - {reference}"] = _stacked(
                [[a - b for a, b in zip(one, two, strict=True)] for one, two in pairs]
            )
    return scores_by_entropy(
        {name: _stacked(seeds) for name, seeds in found.items() if all(seeds)},
        Entropies(by_task),
        differences=differences,
        graph=graph,
    )


def _scores(result: CellResult, entropies: Mapping[str, Array]) -> list[Array]:
    """What every question of each task scores, empty where these are not the questions that the entropies are of."""
    keys = {row.task: row.key for row in result.scores.tasks}
    found = [result.by_question.get(task, {}).get(keys.get(task, ""), ()) for task in entropies]
    fits = all(len(each) == len(known) for each, known in zip(found, entropies.values(), strict=True))
    return [np.array(each, dtype=float) for each in found] if fits else []


def _stacked(seeds: Sequence[Sequence[Array]]) -> list[Array]:
    """Scores of each seed by task as scores of each task (seeds, questions)."""
    return [np.stack(task) for task in zip(*seeds, strict=True)]
