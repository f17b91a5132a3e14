"""Scores along the entropy of a question's topics: where the graph is sure, and where it is not.

Questions are parted into quarters by the entropy of p(topic | question). The slope is that of least squares, its
interval from what every question adds to it (the influence function of a slope), drawn as any mean over questions and
seeds is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from topiclora_cli.evaluation.comparison.parts import mean_intervals
from topiclora_cli.runs.results.entropy import ByEntropy, Profile
from topiclora_cli.runs.results.interval import Interval

QUARTERS = 4
Array = np.ndarray
Scores = Sequence[Array]  # of each task (seeds, questions)


@dataclass(frozen=True)
class Entropies:
    """Entropies of the questions of each task, in nats, and how they part all questions into quarters."""

    by_task: Mapping[str, Array]

    @property
    def together(self) -> Array:
        """Of all questions, task by task (n,)."""
        return np.concatenate(list(self.by_task.values()))

    @property
    def edges(self) -> Array:
        """Ends of the quarters, fewer where questions are few, or many have one entropy: none is empty."""
        edges = np.unique(np.quantile(self.together, np.linspace(0, 1, QUARTERS + 1)))
        upper = np.searchsorted(edges[1:-1], self.together, side="left") + 1
        ends: Array = edges[np.union1d(0, np.minimum(upper, len(edges) - 1))]
        return ends

    @property
    def place(self) -> Array:
        """The quarter of each question (n,), from 0."""
        return np.searchsorted(self.edges[1:-1], self.together, side="left")

    @property
    def counts(self) -> tuple[int, ...]:
        """Questions in each quarter."""
        return tuple(np.bincount(self.place, minlength=max(1, len(self.edges) - 1)).tolist())


def profiles(every: Sequence[Scores], entropies: Entropies) -> list[Profile]:
    """Of each the scores, or differences of scores, of the tasks that the entropies are of, along these."""
    if not every:
        return []
    place, entropy = entropies.place, list(entropies.by_task.values())
    together = [np.concatenate(list(scores), axis=1) for scores in every]  # of each (seeds, n)
    bins = [mean_intervals([each[:, place == number] for each in together]) for number in range(int(place.max()) + 1)]
    within = [np.concatenate([_centred(task) for task in scores], axis=1) for scores in every]
    slopes = _slopes([_centred(each) for each in together], _centred(entropies.together))
    slopes_within = _slopes(within, np.concatenate([_centred(each) for each in entropy]))
    return [Profile(*each) for each in zip(zip(*bins, strict=True), slopes, slopes_within, strict=True)]


def scores_by_entropy(
    scores: Mapping[str, Scores],
    entropies: Entropies,
    *,
    differences: Mapping[str, Scores] | None = None,
    graph: str | None = None,
) -> ByEntropy:
    """The profile of everything that was scored, shares all, and of paired differences, of the same questions."""
    differences = differences or {}
    found = profiles([*scores.values(), *differences.values()], entropies)
    return ByEntropy(
        tasks=tuple(entropies.by_task),
        edges=tuple(entropies.edges.tolist()),
        counts=entropies.counts,
        profiles={name: _of_shares(each) for name, each in zip(scores, found, strict=False)},
        differences=dict(zip(differences, found[len(scores) :], strict=True)),
        graph=graph,
    )


def _of_shares(found: Profile) -> Profile:
    """With the ends of means, which are drawn as if they had none, where shares can be."""
    bins = [replace(each, low=max(0.0, each.low), high=min(1.0, each.high)) for each in found.bins]
    return replace(found, bins=tuple(bins))


def _centred(values: Array) -> Array:
    centred: Array = values - values.mean(-1, keepdims=True)
    return centred


def _slopes(every: Sequence[Array], entropy: Array) -> Sequence[Interval | None]:
    """The slopes of centred scores (seeds, n) on centred entropies (n,); None where these do not differ."""
    spread = float((entropy**2).sum())
    if spread < 1e-12:
        return [None] * len(every)
    adds = []
    for scores in every:
        slopes = scores @ entropy / spread  # (seeds,)
        rest = scores - slopes[:, None] * entropy
        adds.append(slopes[:, None] + len(entropy) * rest * entropy / spread)
    return mean_intervals(adds)
