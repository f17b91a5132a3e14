"""Stage 1: learn topic vectors and expert vectors together, on the topic graph.

Small enough (tens of topics) to train on the whole graph at every step, in seconds on one CPU core. Seeded and sealed:
the caller's random state is left as it was. The controls keep the machinery and take the meaning away, one piece at a
time.

The objective is our reconstruction of the stage that TopicLoRA's abstract (AAAI 2026) describes in one sentence.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch_geometric.data import Data

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics import controls, experts
from topiclora_cli.topics.encoder import Encoder
from topiclora_cli.topics.evidence import Evidence, gather_evidence
from topiclora_cli.topics.gnn import GnnKind
from topiclora_cli.topics.graph import adjacency, build_graph, diffusion, rewire
from topiclora_cli.topics.learn import DMON_WEIGHTS, LEARNING_RATE, LOSS_WEIGHTS, TEMPERATURE, learn
from topiclora_cli.topics.prior import DEFAULTS
from topiclora_cli.topics.projector import Lessons, fit_projector, gather_lessons
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy

Control = Literal["none", "random_graph", "shuffled", "uniform", "groups", "kmeans", "spectral", "dmon"]
CONTROLS = get_args(Control)


def fit_topic_graph(
    taxonomy: Taxonomy,
    encoder: Encoder | Tensor,
    *,
    num_experts: int = 8,
    gnn: GnnKind = "gcn",
    separation: experts.SeparationKind = "margin",
    control: Control = "none",
    steps: int = 300,
    width: int = 256,
    layers: int = 2,
    learning_rate: float = LEARNING_RATE,
    assignment_temperature: float = TEMPERATURE,
    loss_weights: Mapping[str, float] | None = None,
    npmi_weight: float = 0.5,
    cosine_floor: float = 0.2,
    neighbours: int = 8,
    seed: int = 0,
    encoder_id: str = "features",
    lessons: Lessons | None = None,
    evidence: Evidence | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> TopicGraph:
    """Learn the topic graph of a taxonomy; the same seed gives the same graph on one machine.

    `encoder` encodes `taxonomy.texts`, or is those features (T, f) already, then named by `encoder_id`. Controls:
    random_graph (edges rewired), shuffled (S's rows permuted), uniform (S even), groups, kmeans and spectral (S not
    learnt), dmon (the losses of DMoN, arXiv 2006.16904, alone). `loss_weights` overrides entries of LOSS_WEIGHTS, or
    DMON_WEIGHTS. `lessons`, from `gather_lessons`, teach the projector and say what the experts will be asked; unset,
    they are the taxonomy's own texts. `evidence` is what they say, gathered from them unless given. `on_step(step,
    losses)` is called after every step. Raises TopicLoraError for bad settings and for more experts than topics.
    """
    weights = {**(DMON_WEIGHTS if control == "dmon" else LOSS_WEIGHTS), **(loss_weights or {})}
    _check(len(taxonomy.topics), num_experts, control, steps, assignment_temperature, weights)
    features = (encoder if isinstance(encoder, Tensor) else encoder.encode(taxonomy.texts)).detach().float().cpu()
    data = build_graph(taxonomy, features, npmi_weight=npmi_weight, cosine_floor=cosine_floor, neighbours=neighbours)
    if control == "random_graph":
        data = rewire(data, seed)
    if lessons is None:
        names = None if isinstance(encoder, Tensor) else encoder.encode(taxonomy.task_texts)
        lessons = gather_lessons(taxonomy, features, names)
    evidence = evidence or gather_evidence(lessons)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        z, vectors, assignment = learn(
            data,
            num_experts=num_experts,
            gnn=gnn,
            separation=separation,
            steps=steps,
            width=width,
            layers=layers,
            learning_rate=learning_rate,
            assignment_temperature=assignment_temperature,
            loss_weights=weights,
            evidence=evidence,
            on_step=on_step,
        )
        vectors, assignment = controlled(control, taxonomy, data, z, vectors, assignment)

    if not torch.isfinite(z).all():
        raise TopicLoraError("Learning the topic graph diverged.", "Lower graph.learning_rate.")
    projector = fit_projector(lessons, nearness=diffusion(adjacency(data.edge_index, data.edge_weight, len(features))))
    config = {
        "gnn": gnn,
        "separation": separation,
        "control": control,
        "steps": steps,
        "width": width,
        "layers": layers,
        "learning_rate": learning_rate,
        "assignment_temperature": assignment_temperature,
        "loss_weights": weights,
        "npmi_weight": npmi_weight,
        "cosine_floor": cosine_floor,
        "neighbours": neighbours,
        "prior": {**DEFAULTS, **({"temperature": evidence.temperature} if evidence else {})},
    }
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
        seed=seed,
        tasks=dict(taxonomy.tasks),
        config=config,
    )


def _check(
    topics: int, num_experts: int, control: str, steps: int, temperature: float, weights: Mapping[str, float]
) -> None:
    if num_experts < 2:
        raise TopicLoraError(f"{num_experts} experts leave nothing to route.", "Use at least 2 experts.")
    if num_experts > topics:
        raise TopicLoraError(
            f"{num_experts} experts for {topics} topics: some would have none.", "Use fewer experts or more topics."
        )
    if control not in CONTROLS:
        raise TopicLoraError(f"Unknown control '{control}'.", f"Use one of {', '.join(CONTROLS)}.")
    if steps < 0 or temperature <= 0:
        raise TopicLoraError(
            f"steps={steps} and assignment_temperature={temperature} cannot be used.",
            "Use steps >= 0, temperature > 0.",
        )
    unknown = sorted(set(weights) - set(LOSS_WEIGHTS))
    if unknown:
        raise TopicLoraError(f"Unknown loss '{unknown[0]}'.", f"Known: {', '.join(LOSS_WEIGHTS)}.")


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
