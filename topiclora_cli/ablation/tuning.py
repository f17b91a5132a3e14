"""Which values of `ablation.tune` suit a cell best: those with the lowest loss on held-out training examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.recipe.space import Range

Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Choice:
    """The values that a cell goes on with, and the held-out loss of all that were tried, in nats per answer token.

    edges: keys whose best value is the first or last of its list, or at an end of its range, so that a better one may
    lie beyond.
    """

    values: Values
    losses: Mapping[Values, float]
    edges: Sequence[str]


def choose(trials: Sequence[Cell], losses: Sequence[float]) -> Choice:
    """The values with the lowest loss, of equals the first."""
    best = trials[min(range(len(trials)), key=lambda place: losses[place])].tuned
    edges = []
    axes = trials[0].recipe.ablation.axes
    for key, value in best:
        if isinstance(axis := axes.get(key), Range):
            edges += [key] if axis.is_end(value) else []
            continue
        tried = [dict(trial.tuned)[key] for trial in trials]
        numbers = [each for each in tried if isinstance(each, int | float)]
        if len(set(numbers)) == len(set(tried)) > 1 and value in (min(numbers), max(numbers)):
            edges.append(key)
    return Choice(best, {trial.tuned: loss for trial, loss in zip(trials, losses, strict=True)}, edges)
