"""Stage 1: learn topic vectors and expert vectors together, on the topic graph.

Small enough (tens of topics) to train on the whole graph at every step, in seconds on one CPU core. Seeded and sealed:
the caller's random state is left as it was. The controls keep the machinery and take the meaning away, one piece at a
time.

The objective is our reconstruction of the stage that TopicLoRA's abstract (AAAI 2026) describes in one sentence.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics import controls
from topiclora_cli.topics.encoder import Encoder
from topiclora_cli.topics.evidence import Evidence, gather_evidence
from topiclora_cli.topics.graph import adjacency, build_graph, diffusion, rewire
from topiclora_cli.topics.learn import learn
from topiclora_cli.topics.prior import DEFAULTS
from topiclora_cli.topics.projector import TrainingPairs, fit_projector, gather_training_pairs
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.store import STANDS_FOR, TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy


def fit_topic_graph(
    taxonomy: Taxonomy,
    encoder: Encoder | Tensor,
    settings: GraphSettings | None = None,
    *,
    encoder_id: str = "features",
    pairs: TrainingPairs | None = None,
    evidence: Evidence | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> TopicGraph:
    """Learn the topic graph of a taxonomy; the same seed gives the same graph on one machine.

    `encoder` encodes `taxonomy.texts`, or is those features (T, f) already, then named by `encoder_id`. `pairs` of
    texts and topics, from `gather_training_pairs`, teach the projector and say what the experts will be asked; unset,
    they are the taxonomy's own texts. `evidence` is what they say, gathered from them unless given. `on_step(step,
    losses)` is called after every step. Raises TopicLoraError for bad settings and for more experts than topics.
    """
    settings = settings or GraphSettings()
    settings.check(len(taxonomy.topics))
    features = (encoder if isinstance(encoder, Tensor) else encoder.encode(taxonomy.texts)).detach().float().cpu()
    data = build_graph(taxonomy, features, **settings.ties)
    if settings.control == "random_graph":
        data = rewire(data, settings.seed)
    if pairs is None:
        names = None if isinstance(encoder, Tensor) else encoder.encode(taxonomy.task_texts)
        pairs = gather_training_pairs(taxonomy, features, names)
    evidence = evidence or gather_evidence(pairs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        z, vectors, assignment = learn(data, settings, evidence=evidence, on_step=on_step)
        vectors, assignment = controlled(settings.control, taxonomy, data, z, vectors, assignment)

    if not torch.isfinite(z).all():
        raise TopicLoraError("Learning the topic graph diverged.", "Lower graph.learning_rate.")
    projector = fit_projector(pairs, nearness=diffusion(adjacency(data.edge_index, data.edge_weight, len(features))))
    prior = {**DEFAULTS, **({"temperature": evidence.temperature} if evidence else {})}
    return TopicGraph(
        topics=taxonomy.names,
        descriptions=tuple(topic.description for topic in taxonomy.topics),
        groups=tuple(topic.group for topic in taxonomy.topics),
        topic_vectors=z.contiguous(),
        expert_vectors=vectors.contiguous(),
        assignment=assignment.contiguous(),
        edge_index=data.edge_index,
        edge_weight=data.edge_weight,
        feature_mean=projector.mean,
        feature_scale=projector.scale,
        projector_weight=projector.weight,
        projector_bias=projector.bias,
        encoder_id=encoder_id if isinstance(encoder, Tensor) else encoder.id,
        seed=settings.seed,
        tasks=dict(taxonomy.tasks),
        config={**settings.config, "prior": prior, **_members(taxonomy)},
    )


def _members(taxonomy: Taxonomy) -> dict[str, Any]:
    return {STANDS_FOR: dict(taxonomy.stands_for)} if taxonomy.stands_for else {}


def controlled(
    control: str, taxonomy: Taxonomy, data: Data, z: Tensor, vectors: Tensor, assignment: Tensor
) -> tuple[Tensor, Tensor]:
    """Expert vectors (E, d) and assignment (T, E) as learnt, or as the control wants them.

    Draws from the global generator, which is to be as `learn` leaves it. Raises TopicLoraError where groups do not fit.
    """
    count = len(vectors)
    if control == "shuffled":
        return vectors, controls.shuffled(assignment)
    if control == "uniform":
        return vectors, controls.uniform(assignment)
    if control == "groups":
        labels = controls.group_labels(taxonomy, count)
    elif control == "kmeans":
        assert data.x is not None
        labels = controls.kmeans_labels(data.x, count)
    elif control == "spectral":
        assert data.edge_index is not None
        labels = controls.spectral_labels(adjacency(data.edge_index, data.edge_weight, len(z)), count)
    else:
        return vectors, assignment
    return controls.label_centres(z, labels, count), controls.label_assignment(labels, count)
