"""What was found of scores along the entropy of a question's topics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from topiclora_cli.runs.results.interval import Interval


@dataclass(frozen=True)
class Profile:
    """A score, or a difference of two, along the entropy: its mean in each bin, and its slope per nat.

    within: the slope among questions of the same task, from which each task's own mean is taken out. None where
    entropies do not differ.
    """

    bins: tuple[Interval, ...]
    slope: Interval | None
    within: Interval | None


@dataclass(frozen=True)
class ByEntropy:
    """Scores by how unsure a topic graph is of each question's topics, the entropy of p(topic | question) in nats.

    tasks: whose questions these are. edges: of the bins, which are quarters of all questions as far as entropies
    differ; counts: questions in each. profiles: by what was scored; differences: of two of those. graph: the cell of a
    grid whose graph it is.
    """

    tasks: tuple[str, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    profiles: Mapping[str, Profile]
    differences: Mapping[str, Profile] = field(default_factory=dict)
    graph: str | None = None
