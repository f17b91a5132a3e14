"""What was found of a model's routing: by layer, between experts, along texts, interfered with, and under probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from topiclora_cli.runs.results.interval import Interval

# What a question is measured by; higher is better of the first alone.
MEASURES = ("score", "choice_loss", "answer_loss")


@dataclass(frozen=True)
class LayerRouting:
    """One decoder layer, means over its adapted modules; `layer` is None for modules outside of the layers.

    token_entropy: of one token's gates over ln E. experts_per_token: 1 / sum g^2 of one token's gates.
    effective_experts: 1 / sum p^2 of a router's load p. load_variation: the deviation of loads over their mean.
    information: of topic and expert in nats, as found; by_chance: its mean under the permutation null; p: how often the
    null reaches it. cosine, cka: between two experts' weights and outputs, mean and largest over pairs. agrees: share
    of examples whose likeliest expert is the prior's; from_prior: Jensen-Shannon divergence of gates and prior, nats.
    """

    layer: int | None
    experts: int
    modules: int
    token_entropy: float
    experts_per_token: float
    effective_experts: float
    load_variation: float
    largest_load: float
    information: float
    by_chance: float
    p: float
    cosine: tuple[float, float] | None = None
    cka: tuple[float, float] | None = None
    agrees: float | None = None
    from_prior: float | None = None
    load: Sequence[float] = ()


@dataclass(frozen=True)
class TokenGates:
    """A token of a text, whether the model wrote it, and its mean gates over all layers (E,)."""

    token: str
    written: bool
    gates: Sequence[float]


@dataclass(frozen=True)
class Changes:
    """Measures before and after, and the mean change of the questions with its interval, by measure."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    change: Mapping[str, Interval]


@dataclass(frozen=True)
class TopicChange:
    """The mean change of each measure over a topic's questions."""

    count: int
    change: Mapping[str, Interval]


@dataclass(frozen=True)
class Interfered:
    """What came of one way of interfering; expert: the one switched off.

    own, others: mean change of the answer loss on the questions of the expert's topics and on those of the others';
    apart: their difference. None where either has no question.
    """

    way: str
    changes: Changes
    by_topic: Mapping[str, TopicChange]
    expert: int | None = None
    own: Interval | None = None
    others: Interval | None = None
    apart: Interval | None = None


@dataclass(frozen=True)
class RoutingStudy:
    """One study of a model's routing, as `eval/NAME/routing.json` holds it.

    examples: of how many `on` the measures are; questions: how many were asked under interference. together: all layers
    as one. alike: experts' mean cosine and CKA over all modules (E, E). owners: by what a question's expert is told.
    left_out: what was not done, and why.
    """

    experts: int
    examples: int
    on: str
    questions: int
    layers: Sequence[LayerRouting]
    together: LayerRouting
    cosine: Sequence[Sequence[float]]
    cka: Sequence[Sequence[float]]
    texts: Sequence[Sequence[TokenGates]]
    interfered: Sequence[Interfered]
    owners: str
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Joined:
    """How a prompt that joins questions of two topics is routed, beside the two alone: means over prompts.

    Divergences are Jensen and Shannon's, in nats, of the joined prompt's mean gates, or of its prior: from the even
    mixture of what the two have alone (both) and from what the asked question has alone (own). gates: from the two's
    gates; gates_from_prior: from the two's priors; prior: of the prior itself. weight: the gate of the expert that the
    other topic's prior holds likeliest, of prompts whose two likeliest experts differ (`apart` of them), less that
    gate where the asked question stands alone; None where there are none, or no graph, as are all from priors.
    """

    gates: tuple[Interval, Interval]
    gates_from_prior: tuple[Interval, Interval] | None = None
    prior: tuple[Interval, Interval] | None = None
    weight: Interval | None = None
    apart: int = 0


@dataclass(frozen=True)
class BeforeAfter:
    """A measure of each question that has it, in the questions' order, as it is and under a probe."""

    before: Sequence[float]
    after: Sequence[float]


@dataclass(frozen=True)
class Probed:
    """What a change of the prompts does to answers and to routing.

    asked: how many questions it applies to. moved: Jensen-Shannon divergence of mean gates from the unprobed prompt's
    in nats, over all prompt tokens; moved_last: at the last one. None without routers. against: the other run's
    changes; more: this run's change less the other's, paired by question. joined: of a probe that joins two topics.
    by_question: each measure of every question that the probe applies to.
    """

    probe: str
    asked: int
    changes: Changes
    moved: Interval | None = None
    moved_last: Interval | None = None
    against: Changes | None = None
    more: Mapping[str, Interval] = field(default_factory=dict)
    joined: Joined | None = None
    by_question: Mapping[str, BeforeAfter] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeStudy:
    """Probes of one evaluation, as `eval/NAME/probes.json` holds them.

    between: divergence between the prompts of two different questions, a yardstick for `moved`, as is between_last for
    moved_last. against: the other run's name.
    """

    probes: Sequence[Probed]
    questions: int
    seed: int
    against: str | None = None
    between: float | None = None
    between_last: float | None = None
    left_out: Sequence[str] = ()
