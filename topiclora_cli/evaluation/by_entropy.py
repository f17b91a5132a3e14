"""Scores along the entropy of a question's topics: where the graph is sure, and where it is not.

Questions are parted into quarters by the entropy of p(topic | question). The slope is that of least squares, its
interval from what every question adds to it (the influence function of a slope), drawn as any mean over questions and
seeds is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from topiclora_cli.evaluation.comparison.intervals import paired_interval
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


def profile(scores: Scores, entropies: Entropies) -> Profile:
    """Scores, or differences of scores, of the tasks that the entropies are of, along these."""
    place, together = entropies.place, np.concatenate(list(scores), axis=1)  # (n,), (seeds, n)
    bins = tuple(_mean(together[:, place == number]) for number in range(int(place.max()) + 1))
    entropy = list(entropies.by_task.values())
    own = [each - each.mean() for each in entropy]
    within = [each - each.mean(1, keepdims=True) for each in scores]
    return Profile(
        bins,
        _slope(together - together.mean(1, keepdims=True), entropies.together - entropies.together.mean()),
        _slope(np.concatenate(within, axis=1), np.concatenate(own)),
    )


def scores_by_entropy(
    scores: Mapping[str, Scores],
    entropies: Entropies,
    *,
    differences: Mapping[str, Scores] | None = None,
    graph: str | None = None,
) -> ByEntropy:
    """The profile of everything that was scored, shares all, and of paired differences, of the same questions."""
    return ByEntropy(
        tasks=tuple(entropies.by_task),
        edges=tuple(entropies.edges.tolist()),
        counts=entropies.counts,
        profiles={name: _of_shares(profile(each, entropies)) for name, each in scores.items()},
        differences={name: profile(each, entropies) for name, each in (differences or {}).items()},
        graph=graph,
    )


def _of_shares(found: Profile) -> Profile:
    """With the ends of means, which are drawn as if they had none, where shares can be."""
    bins = [replace(each, low=max(0.0, each.low), high=min(1.0, each.high)) for each in found.bins]
    return replace(found, bins=tuple(bins))


def _mean(scores: Array) -> Interval:
    return paired_interval([scores], by_task=False)


def _slope(scores: Array, entropy: Array) -> Interval | None:
    """The slope of centred scores (seeds, n) on centred entropies (n,); None where these do not differ."""
    spread = float((entropy**2).sum())
    if spread < 1e-12:
        return None
    slopes = scores @ entropy / spread  # (seeds,)
    rest = scores - slopes[:, None] * entropy
    return _mean(slopes[:, None] + len(entropy) * rest * entropy / spread)
