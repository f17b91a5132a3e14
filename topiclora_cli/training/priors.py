"""The prior of every training prompt, computed once and kept beside the topic graph.

A prior depends on the prompt and the graph alone, so it costs nothing during training.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from topiclora_cli.files import replacing
from topiclora_cli.topics.encoder import Encoder
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph


def cached_priors(graph: TopicGraph, encoder: Encoder, prompts: Sequence[str], folder: Path) -> tuple[Tensor, Tensor]:
    """pi (n, E) and confidence (n,) of the prompts, read from `folder` when graph, encoder and prompts are the same."""
    digest = hashlib.sha256("\0".join([graph.sha256, encoder.id, *prompts]).encode()).hexdigest()[:16]
    path = folder / f"prior-{digest}.safetensors"
    if path.is_file():
        try:
            stored = load_file(path)
            return stored["prior"], stored["confidence"]
        except (SafetensorError, KeyError):
            path.unlink()  # a cache is rebuilt, not repaired
    batch = TopicPrior(graph, encoder)(prompts)
    with replacing(path) as temporary:
        save_file({"prior": batch.prior.contiguous(), "confidence": batch.confidence.contiguous()}, temporary)
    return batch.prior, batch.confidence
