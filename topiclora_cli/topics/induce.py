"""A taxonomy out of the training prompts themselves, where nobody has written one.

Prompts that read alike become a topic (spherical k-means on their vectors). A topic is named by the words that set its
prompts apart from the others', and every prompt is tagged with its own, which is what the query projector learns from.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.controls import kmeans_labels, label_centres
from topiclora_cli.topics.taxonomy import Taxonomy, Topic

TOPICS, PROMPTS_PER_TOPIC = 32, 8
NAME_TERMS, DESCRIPTION_TERMS, EXAMPLE_LENGTH = 2, 8, 160
_WORD = re.compile(r"[^\W\d_]{3,}(?:['’][^\W\d_]+)?")


def induce_taxonomy(
    prompts: Sequence[str], embeddings: Tensor, count: int | None = None, *, seed: int = 0
) -> tuple[Taxonomy, list[tuple[str]]]:
    """Cluster n prompts by their embeddings (n, d) into `count` topics; returns them and the topic of each prompt.

    Without a count 32 topics, or one for every 8 prompts where those are fewer. The same seed gives the same topics,
    and the caller's random state stays. Raises TopicLoraError for empty prompts, embeddings that do not fit, and fewer
    prompts than topics.
    """
    count = max(2, min(TOPICS, len(prompts) // PROMPTS_PER_TOPIC)) if count is None else count
    _check(prompts, embeddings, count)
    # All prompts share much; what tells topics apart is how they differ from the mean.
    centred = F.normalize(embeddings.float() - embeddings.float().mean(0), dim=1)  # (n, d)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        labels = kmeans_labels(centred, count)
    typical = (centred @ label_centres(centred, labels, count).T).T  # (count, n)
    examples = typical.masked_fill(labels != torch.arange(count)[:, None], -torch.inf).argmax(1).tolist()

    topics: list[Topic] = []
    for terms, example in zip(_terms(prompts, labels.tolist(), count), examples, strict=True):
        name = _name(terms, {topic.name for topic in topics}, len(topics))
        # By letters: some scripts put no spaces between words.
        shortened = " ".join(prompts[example].split())[:EXAMPLE_LENGTH]
        topics.append(Topic(name, f"{', '.join(terms)}; for example: {shortened}".removeprefix("; ")))
    return Taxonomy(tuple(topics)), [(topics[label].name,) for label in labels.tolist()]


def _check(prompts: Sequence[str], embeddings: Tensor, count: int) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(prompts):
        raise TopicLoraError(
            f"Prompt embeddings have shape {tuple(embeddings.shape)} for {len(prompts)} prompts.",
            "Give one row per prompt.",
        )
    if empty := sum(not prompt.strip() for prompt in prompts):
        raise TopicLoraError(
            f"{empty} of {len(prompts)} prompts are empty: no topic can be induced from them.", "Mend data.prompt."
        )
    if not torch.isfinite(embeddings).all():
        raise TopicLoraError("The encoder gave prompt embeddings that are not finite.", "Load the base in float32.")
    if not 2 <= count <= len(prompts):
        raise TopicLoraError(
            f"{count} topics cannot be induced from {len(prompts)} prompts.",
            "Use at least 2 topics (graph.induced_topics) and as many prompts (graph.tagged_prompts).",
        )


def _terms(prompts: Sequence[str], labels: Sequence[int], count: int) -> list[list[str]]:
    """Each cluster's most characteristic words, best first.

    Class-based TF-IDF (BERTopic, Grootendorst, arXiv 2203.05794): tf * ln(1 + 1 / f), with f summed over clusters. Here
    tf is the share of a cluster's prompts that hold the word, so that long prompts do not outvote short ones.
    """
    sizes = Counter(labels)
    counts: list[Counter[str]] = [Counter() for _ in range(count)]
    for prompt, label in zip(prompts, labels, strict=True):
        counts[label].update(set(_WORD.findall(prompt.lower())))
    shares = [{word: n / sizes[label] for word, n in found.items()} for label, found in enumerate(counts)]
    total: Counter[str] = Counter()
    for share in shares:
        total.update(share)
    weight = [{word: tf * math.log1p(1 / total[word]) for word, tf in s.items()} for s in shares]
    return [sorted(found, key=lambda word: (-found[word], word))[:DESCRIPTION_TERMS] for found in weight]


def _name(terms: Sequence[str], taken: set[str], number: int) -> str:
    """Two terms, three where two are taken, a number where words do not tell."""
    for length in (NAME_TERMS, NAME_TERMS + 1):
        name = ", ".join(terms[:length])
        if name and name not in taken:
            return name
    return f"{name or 'topic'} {number + 1}"
