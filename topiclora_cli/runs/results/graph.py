"""What stage 1 found: a topic graph in numbers, and how far to believe its assignment."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ShapeReport:
    """A graph without its meaning.

    density: share of the possible ties that are there. Degrees count ties. components: parts with no tie between them,
    each topic of `isolated`, which have no tie at all, among them.
    """

    density: float
    mean_degree: float
    max_degree: int
    components: int
    isolated: tuple[str, ...]


@dataclass(frozen=True)
class SeparationReport:
    """Cosines between expert vectors, and their smallest angle beside the best any E vectors can have, in degrees."""

    min_cosine: float
    mean_cosine: float
    max_cosine: float
    min_angle: float
    simplex_angle: float


@dataclass(frozen=True)
class AssignmentReport:
    """Who owns what: topics per expert (by arg-max), mean entropy of S's rows in [0, 1], modularity, lonely topics."""

    topics_per_expert: tuple[int, ...]
    entropy: float
    modularity: float
    isolated: tuple[int, ...]

    @property
    def dead(self) -> tuple[int, ...]:
        """Experts that are no topic's first choice."""
        return tuple(expert for expert, count in enumerate(self.topics_per_expert) if count == 0)


@dataclass(frozen=True)
class LinkReport:
    """How many edges were hidden, and the AUC of hidden edges against unlinked pairs: by topic vectors, by text."""

    hidden: int
    auc: float
    text_auc: float


@dataclass(frozen=True)
class Spread:
    """A number over several seeds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Contender:
    """One setting over the seeds.

    gnn, control: what sets it apart; own: whether it is the recipe's. information: of a prompt's kind and its most
    likely expert, in units of ln E; None without evidence. modularity: of the arg-max partition on the true graph.
    min_angle: the smallest between expert vectors, in degrees. entropy: of S's rows, in units of ln E.
    stability: adjusted Rand index (Hubert and Arabie, 1985) of the arg-max partitions of two seeds, over all pairs;
    None for one seed, and where no partition parts anything.
    """

    gnn: str
    control: str
    own: bool
    information: Spread | None
    modularity: Spread
    min_angle: Spread
    entropy: Spread
    stability: Spread | None


@dataclass(frozen=True)
class Comparison:
    """The learnt assignment, with and without a graph network, beside every control that the taxonomy allows."""

    seeds: tuple[int, ...]
    contenders: tuple[Contender, ...]


@dataclass(frozen=True)
class AttributionReport:
    """How well the topics of tagged prompts are told, by projectors that were fitted without them.

    Mean average precision, over prompts, of ranking the topics that two kinds or more carry, or all if none is: seen,
    of prompts of kinds with other prompts in the fit; unseen, of whole kinds left out; no_graph, frequency, cosine: the
    same for the unseen kinds by the projector alone, by how often topics occur, by cosine with their descriptions.
    information: of kind and most likely expert, seen prompts, in units of ln E. kl_*: mean of KL(prior of the tags ||
    prior) in nats, for seen and unseen kinds, and of a uniform prior. The unseen are None for fewer kinds than folds,
    no topic that two of them carry, or no edges.
    """

    prompts: int
    kinds: int
    topics: int
    seen: float
    unseen: float | None
    no_graph: float | None
    frequency: float | None
    cosine: float | None
    information: float
    kl_seen: float
    kl_unseen: float | None
    kl_uniform: float


@dataclass(frozen=True)
class Candidate:
    """One number of experts over the folds.

    likelihood: log-likelihood per hidden pair, in nats, its mean over the folds; error: the mean's standard error.
    modularity: of the arg-max partition on the whole graph. dead: the most experts without a topic in any fold.
    """

    experts: int
    likelihood: float
    error: float
    modularity: float
    dead: int


@dataclass(frozen=True)
class Choice:
    """The number of experts, the one sentence that says why, and all that were tried.

    chance: the log-likelihood per hidden pair if all were tied with the same chance.
    """

    experts: int
    reason: str
    chance: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class GraphReport:
    """Stage 1 in numbers, as `graph/report.json` holds them.

    dead_experts: those that are no topic's first choice. choice: why so many experts. None where a part was not
    measured, or nothing chosen.
    """

    topics: int
    experts: int
    edges: int
    shape: ShapeReport | None
    separation: SeparationReport
    assignment: AssignmentReport
    dead_experts: tuple[int, ...]
    links: LinkReport | None
    comparison: Comparison | None
    attribution: AttributionReport | None
    choice: Choice | None
    topics_by_expert: Mapping[int, tuple[str, ...]]
