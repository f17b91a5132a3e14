"""What a run makes of one prompt."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TopicScore:
    """How much a prompt is about a topic: about 1 where the topic applies, 0 where not."""

    topic: str
    relevance: float


@dataclass(frozen=True)
class TopicView:
    """What the topic graph says of a prompt: its best topics, the best first, and the prior (E,) with its confidence.

    experts: the leading topics of each expert.
    """

    topics: list[TopicScore]
    prior: list[float]
    confidence: float
    experts: list[list[str]]


@dataclass(frozen=True)
class LayerGates:
    """Shares of the experts (E,) in one decoder layer, None outside of any: of each routed module, and their mean."""

    layer: int | None
    mean: list[float]
    modules: Mapping[str, list[float]]


@dataclass(frozen=True)
class GateView:
    """What the routers make of a prompt, averaged over its tokens: by layer, and over the layers.

    Where layers differ in E, `mean` is over those with the most frequent one.
    """

    tokens: int
    mean: list[float]
    layers: list[LayerGates]


@dataclass(frozen=True)
class PromptRoute:
    """A prompt with what the run's topic graph and its routers say of it; None for what the run does not have."""

    prompt: str
    topics: TopicView | None
    gates: GateView | None
