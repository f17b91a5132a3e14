"""From a prompt to a prior over experts: which topics is it about, and which experts own those topics?

The prompt's text vector is scored against every topic; the best scores, sharpened, weigh the rows of the assignment S.
The answer never takes part, so the same prior holds for training and for use, and is worth computing only once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.distributions import entropy
from topiclora_cli.topics.encoder import Encoder
from topiclora_cli.topics.projector import membership, places
from topiclora_cli.topics.store import TopicGraph

EPSILON = 0.02
DEFAULTS = {"top_topics": 8, "temperature": 0.2, "epsilon": EPSILON}


@dataclass(frozen=True)
class PriorBatch:
    """For n prompts: prior pi (n, E), rows sum to 1; confidence (n,) in [0, 1]; relevance (n, T), about 1 for topics
    that apply and 0 for others.
    """

    prior: Tensor
    confidence: Tensor
    relevance: Tensor


class TopicPrior:
    """Callable from a list of prompts to their PriorBatch.

    `top_topics`, `temperature` and `epsilon` default to the graph's own settings. Raises TopicLoraError when the
    encoder is not the one the graph was built with.
    """

    def __init__(
        self,
        graph: TopicGraph,
        encoder: Encoder,
        *,
        top_topics: int | None = None,
        temperature: float | None = None,
        epsilon: float | None = None,
    ) -> None:
        if encoder.id != graph.encoder_id:
            raise TopicLoraError(
                f"The topic graph was built with the encoder '{graph.encoder_id}', not '{encoder.id}'.",
                "Use that encoder, or run build-graph again.",
            )
        self.graph, self.encoder = graph, encoder
        self.top_topics, self.temperature, self.epsilon = top_topics, temperature, epsilon

    def __call__(self, prompts: Sequence[str]) -> PriorBatch:
        embeddings = self.encoder.encode(prompts)
        return prior_from_embeddings(
            self.graph,
            embeddings,
            top_topics=self.top_topics,
            temperature=self.temperature,
            epsilon=self.epsilon,
        )


def prior_from_embeddings(
    graph: TopicGraph,
    embeddings: Tensor,
    *,
    top_topics: int | None = None,
    temperature: float | None = None,
    epsilon: float | None = None,
) -> PriorBatch:
    """The prior of prompts already encoded, embeddings (n, f).

    r = standardised embeddings times the projector; p(t|x) = softmax of r / temperature over the best `top_topics`; pi
    = (1 - epsilon) p S + epsilon / E. Our reconstruction: the TopicLoRA abstract (AAAI 2026) names "topic-guided
    routing distributions" only. Raises TopicLoraError for settings that make no distribution and for a wrong width.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != graph.encoder_width:
        raise TopicLoraError(
            f"Prompt embeddings have shape {tuple(embeddings.shape)}; the topic graph was built on rows of "
            f"{graph.encoder_width} from the encoder '{graph.encoder_id}'.",
            "Use the encoder as it was then, or run build-graph again.",
        )
    features = (embeddings.float() - graph.feature_mean) / graph.feature_scale
    relevance = features @ graph.projector_weight + graph.projector_bias  # (n, T)
    prior = prior_from_relevance(graph, relevance, top_topics=top_topics, temperature=temperature, epsilon=epsilon)
    return PriorBatch(prior, confidence(prior), relevance)


def prior_from_relevance(
    graph: TopicGraph,
    relevance: Tensor,
    *,
    top_topics: int | None = None,
    temperature: float | None = None,
    epsilon: float | None = None,
) -> Tensor:
    """The prior (n, E) of prompts whose topic scores (n, T) are known; see `prior_from_embeddings`."""
    own = {**DEFAULTS, **graph.config.get("prior", {})}
    top = min(own["top_topics"] if top_topics is None else top_topics, graph.num_topics)
    temperature = own["temperature"] if temperature is None else temperature
    smooth = own["epsilon"] if epsilon is None else epsilon
    if top < 1 or temperature <= 0 or not 0 <= smooth <= 1:
        raise TopicLoraError(
            f"The prior's top_topics={top}, temperature={temperature}, epsilon={smooth} make no distribution.",
            "Use top_topics >= 1, temperature > 0 and 0 <= epsilon <= 1.",
        )
    return _to_experts(graph, _shares(relevance, int(top), temperature), smooth)


def topic_shares(graph: TopicGraph, relevance: Tensor) -> Tensor:
    """How much of each prompt is about each topic by the graph's own settings, (n, T), of topic scores (n, T)."""
    own = {**DEFAULTS, **graph.config.get("prior", {})}
    return _shares(relevance, int(min(own["top_topics"], graph.num_topics)), own["temperature"])


def prior_from_tags(graph: TopicGraph, tags: Sequence[Sequence[str]], *, epsilon: float = EPSILON) -> Tensor:
    """The prior (n, E) of prompts whose topics are known, without looking at the text; even where none is known."""
    member = tag_membership(graph, tags)
    count = member.sum(1, keepdim=True)
    prior = _to_experts(graph, member / count.clamp_min(1), epsilon)
    return torch.where(count > 0, prior, torch.full_like(prior, 1 / graph.num_experts))


def tag_membership(graph: TopicGraph, tags: Sequence[Sequence[str]]) -> Tensor:
    """Which topics each prompt carries, (n, T) of 0 and 1; names the graph does not know are skipped."""
    place = graph.place_of
    return membership([places(names, place) for names in tags], graph.num_topics)


def confidence(prior: Tensor) -> Tensor:
    """1 - H(pi) / ln E for each row of pi (n, E): 0 for an even prior, 1 for a certain one."""
    return (1 - entropy(prior) / math.log(prior.shape[-1])).clamp(0, 1)


def _shares(relevance: Tensor, top: int, temperature: float) -> Tensor:
    best = relevance.topk(top, dim=1)
    return torch.zeros_like(relevance).scatter_(1, best.indices, torch.softmax(best.values / temperature, dim=1))


def _to_experts(graph: TopicGraph, topics: Tensor, epsilon: float) -> Tensor:
    return (1 - epsilon) * topics @ graph.assignment + epsilon / graph.num_experts
