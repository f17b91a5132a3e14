"""The prior of every training prompt, computed once and kept beside the topic graph.

A prior depends on the prompt and the graph alone, so it costs nothing during training.
"""

import hashlib
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.stored import stored_tensors
from topiclora_cli.topics.encoder import Encoder
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph

CHUNK = 256  # prompts between two moves of the bar
_EVEN = 1e-3  # a confidence below which a prior says nothing


def cached_priors(
    graph: TopicGraph, encoder: Encoder, prompts: Sequence[str], folder: Path, progress: Progress
) -> tuple[Tensor, Tensor]:
    """pi (n, E) and confidence (n,) of the prompts, read from `folder` when graph, encoder and prompts are the same."""
    digest = hashlib.sha256("\0".join([graph.sha256, encoder.id, *prompts]).encode()).hexdigest()[:16]
    stored = stored_tensors(folder / f"prior-{digest}.safetensors", lambda: _priors(graph, encoder, prompts, progress))
    return stored["prior"], stored["confidence"]


def refuse_even_priors(confidence: Tensor, section: LossSection) -> None:
    """Raises TopicLoraError where what priors do is weighted by their confidence (n,) and none has any."""
    subjects = {"kl.weight": "the KL", "prior_forcing.start": "prior forcing"}
    wanted = [key for key in subjects if attrgetter(key)(section) > 0]
    if wanted and section.kl.confidence_weighted and confidence.max() < _EVEN:
        raise TopicLoraError(
            "The prior of every training prompt is even, so loss.kl.confidence_weighted leaves "
            f"{' and '.join(subjects[key] for key in wanted)} no weight.",
            "Topics like no other leave experts alike: have more of them, with descriptions and examples; or set "
            "loss.kl.confidence_weighted=false to pull routing towards even use, or "
            f"{' and '.join(f'loss.{key}=0' for key in wanted)}.",
        )


def _priors(graph: TopicGraph, encoder: Encoder, prompts: Sequence[str], progress: Progress) -> dict[str, Tensor]:
    prior = TopicPrior(graph, encoder)
    batches = []
    with progress.track("topic priors", len(prompts)) as advance:
        for start in range(0, len(prompts), CHUNK):
            batches.append(prior(prompts[start : start + CHUNK]))
            advance(len(batches[-1].prior), "")
    return {
        "prior": torch.cat([batch.prior for batch in batches]),
        "confidence": torch.cat([batch.confidence for batch in batches]),
    }
