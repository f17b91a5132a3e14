"""A topic more, or one fewer, in a graph that an adapter was trained with, which leaves the others as they are.

The graph network's weights are not kept, and trained anew they would move every topic vector. So the new node takes the
mean of its neighbours' vectors, weighted by their ties: what a convolution says of a node that it has never seen. Its
expert has it alone, at an angle to the others' vectors that is no smaller than the smallest between those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.topics.graph import standardise
from topiclora_cli.topics.prior import prior_from_embeddings
from topiclora_cli.topics.projector import RIDGE
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy, Topic

_GROWN = "grown"  # where a graph's config says which topics came after its training
_WEAKEST = 1e-3  # tie of a topic that reads like no other to the one that it is least unlike
_MOST_TOLD = 0.8  # length of a new expert vector's part among the old ones; the rest stands upright on all of them


@dataclass(frozen=True, eq=False)
class Grown:
    """A graph with a topic more, the last, whose expert is the last.

    nearest: the topics that it is tied to, the strongest ties first, with their weights. relevance: its mean score on
    its own prompts and on the others'. moved: how much of the others' prior went elsewhere, the mean total variation,
    0 to 1.
    """

    graph: TopicGraph
    nearest: tuple[tuple[str, float], ...]
    relevance: tuple[float, float]
    moved: float


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A graph with a topic fewer. expert: the number of the one that went with it, None where others share it; owners:
    those others."""

    graph: TopicGraph
    expert: int | None
    owners: tuple[str, ...]


def texts_with(graph: TopicGraph, topic: Topic) -> list[str]:
    """What the text encoder reads of a graph's topics and, last, of a new one."""
    described = zip(graph.topics, graph.descriptions, strict=True)
    return Taxonomy((*(Topic(name, text) for name, text in described), topic)).texts


def refuse_known(graph: TopicGraph, name: str) -> None:
    """Raises TopicLoraError for a name that is none, or that a topic of the graph has, by case or spaces apart."""
    if not name.strip() or len(name.splitlines()) > 1:
        raise TopicLoraError(f"{name!r} is no name of a topic.", "Give it one of a few words.")
    known = {_plain(topic): topic for topic in graph.topics}
    if (taken := known.get(_plain(name))) is not None:
        near = nearest(name, set(graph.topics) - {taken})
        raise TopicLoraError(
            f"The run has a topic {taken!r} already.",
            f"Choose another name{', or did you mean' + near.removeprefix('Did you mean') if 'Did' in near else '.'}",
        )


def with_topic(graph: TopicGraph, topic: Topic, features: Tensor, prompts: Tensor, others: Tensor) -> Grown:
    """The graph with one topic more, and one expert more for it alone.

    features (T + 1, f): vectors of `texts_with`. prompts (n, f), others (m, f): vectors of prompts of the new topic and
    of the old ones. Nothing of the old topics changes but that their experts' even share of the prior, epsilon, is
    among one more. Raises TopicLoraError for a name that is taken, and where vectors are too narrow for a new expert.
    """
    refuse_known(graph, topic.name)
    ties = _ties(graph, features)
    place, weight = graph.num_topics, ties[ties > 0]
    near = ties.nonzero().flatten()
    vector = F.normalize(weight @ graph.topic_vectors[near], dim=0)
    expert = apart_from(graph.expert_vectors, vector)
    column, bias = _score(_standardised(graph, prompts), _standardised(graph, others))
    edges = torch.stack((torch.full_like(near, place), near))
    ordered = sorted(zip(weight.tolist(), near.tolist(), strict=True), reverse=True)
    tied = tuple((graph.topics[index], round(value, 4)) for value, index in ordered)
    record = {"topic": topic.name, "expert": graph.num_experts, "nearest": dict(tied)}
    grown = replace(
        graph,
        topics=(*graph.topics, topic.name),
        descriptions=(*graph.descriptions, topic.description),
        groups=(*graph.groups, topic.group),
        topic_vectors=torch.cat([graph.topic_vectors, vector[None]]),
        expert_vectors=torch.cat([graph.expert_vectors, expert[None]]),
        assignment=torch.block_diag(graph.assignment, torch.ones(1, 1)),
        edge_index=torch.cat([graph.edge_index, edges, edges.flip(0)], dim=1),
        edge_weight=torch.cat([graph.edge_weight, weight, weight]),
        projector_weight=torch.cat([graph.projector_weight, column[:, None]], dim=1),
        projector_bias=torch.cat([graph.projector_bias, bias[None]]),
        config={**graph.config, _GROWN: [*graph.config.get(_GROWN, []), record]},
    )
    before, after = (prior_from_embeddings(each, others) for each in (graph, grown))
    moved = (F.pad(before.prior, (0, 1)) - after.prior).abs().sum(1).mean() / 2
    own = prior_from_embeddings(grown, prompts).relevance[:, -1].mean()
    return Grown(grown, tied, (float(own), float(after.relevance[:, -1].mean())), float(moved))


def without_topic(graph: TopicGraph, name: str) -> Shrunk:
    """The graph with one topic fewer, and without its expert where that is no other topic's first choice.

    Raises TopicLoraError for a name that the graph does not know, and where fewer than two topics or experts would be
    left.
    """
    if name not in graph.topics:
        raise TopicLoraError(f"The run has no topic {name!r}.", nearest(name, graph.topics))
    gone = graph.topics.index(name)
    owner = graph.assignment.argmax(1)
    expert = int(owner[gone])
    owners = tuple(graph.topics[index] for index in (owner == expert).nonzero().flatten().tolist() if index != gone)
    topics = [each for each in range(graph.num_topics) if each != gone]
    experts = [each for each in range(graph.num_experts) if owners or each != expert]
    if min(len(topics), len(experts)) < 2:
        what = "topic" if len(topics) < 2 else "expert"
        raise TopicLoraError(f"Without {name!r} one {what} would be left.", "Routing needs at least two.")
    left = graph.assignment[topics][:, experts]
    tasks = {task: tuple(tag for tag in tags if tag != name) for task, tags in graph.tasks.items()}
    edges = (graph.edge_index != gone).all(0)
    index = graph.edge_index[:, edges]
    shrunk = replace(
        graph,
        topics=tuple(graph.topics[each] for each in topics),
        descriptions=tuple(graph.descriptions[each] for each in topics),
        groups=tuple(graph.groups[each] for each in topics),
        topic_vectors=graph.topic_vectors[topics],
        expert_vectors=graph.expert_vectors[experts],
        assignment=left / left.sum(1, keepdim=True),
        edge_index=index - (index > gone).long(),
        edge_weight=graph.edge_weight[edges],
        projector_weight=graph.projector_weight[:, topics],
        projector_bias=graph.projector_bias[topics],
        tasks={task: tags for task, tags in tasks.items() if tags},
        config={**graph.config, _GROWN: _still_grown(graph, name, None if owners else expert)},
    )
    return Shrunk(shrunk, None if owners else expert, owners)


def apart_from(vectors: Tensor, wanted: Tensor) -> Tensor:
    """A unit vector (d,) with the cosines that `wanted` (d,) has to the unit rows (E, d), but none above their largest.

    That largest is of two different rows, and at least 0. What those cosines leave of its length stands upright on all
    rows. Raises TopicLoraError where no direction is left for that.
    """
    rows, direction = vectors.double(), wanted.double()
    if len(rows) >= rows.shape[1]:
        raise TopicLoraError(
            f"{len(rows)} expert vectors of width {rows.shape[1]} leave a new one no direction of its own.",
            "Build a graph of greater graph.width.",
        )
    cosines = rows @ rows.T
    most = cosines.fill_diagonal_(-1).max().clamp_min(0)
    inside = torch.linalg.pinv(rows) @ (rows @ direction).clamp_max(most)
    inside = inside * (_MOST_TOLD / inside.norm()).clamp_max(1)
    basis = torch.linalg.svd(rows, full_matrices=True)[2]
    free = basis[int(torch.linalg.matrix_rank(rows)) :]
    upright = free.T @ (free @ direction)
    if upright.norm() < 1e-3:  # topics gather where their experts are, so this is the rule
        upright = free[0]
    upright = F.normalize(upright, dim=0) * (1 - inside.square().sum()).sqrt()
    return (inside + upright).float()


def _ties(graph: TopicGraph, features: Tensor) -> Tensor:
    """Weights (T,) of the new topic's ties: by its text alone, as it is on no task; those left out are 0."""
    settings = GraphSettings.of(graph)
    unit = F.normalize(standardise(features.float()), dim=1)
    cosine = unit[:-1] @ unit[-1]
    weight = (1 - settings.npmi_weight) * (cosine - settings.cosine_floor).clamp_min(0)
    if not graph.tasks or not weight.any():
        above = cosine + 1 / graph.num_topics  # what vectors share by chance after centring
        weight = (above - (above.max() / 2).clamp_max(settings.cosine_floor)).clamp_min(0)
    weight[cosine.argmax()] = weight[cosine.argmax()].clamp_min(_WEAKEST)
    best = weight.topk(min(settings.neighbours, graph.num_topics)).indices
    return torch.zeros_like(weight).index_copy(0, best, weight[best])


def _standardised(graph: TopicGraph, embeddings: Tensor) -> Tensor:
    return ((embeddings.float() - graph.feature_mean) / graph.feature_scale).double()


def _score(own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (f,) and bias of a score that is about 1 on own prompts (n, f) and 0 on others (m, f), half each.

    The ridge regression of `fit_projector`, for a topic that shares nothing with its neighbours.
    """
    x = torch.cat([own, others])
    weight = torch.cat([torch.full((len(part),), 0.5 / len(part), dtype=x.dtype) for part in (own, others)])
    target = torch.cat([torch.ones(len(own), dtype=x.dtype), torch.zeros(len(others), dtype=x.dtype)])
    mean = weight @ x
    rows = weight.sqrt()[:, None] * (x - mean)
    wanted = weight.sqrt() * (target - 0.5)
    # The smaller of the two systems.
    if len(rows) < rows.shape[1]:
        system = rows @ rows.T + RIDGE * torch.eye(len(rows), dtype=x.dtype)
        found = rows.T @ torch.linalg.solve(system, wanted)
    else:
        system = rows.T @ rows + RIDGE * torch.eye(rows.shape[1], dtype=x.dtype)
        found = torch.linalg.solve(system, rows.T @ wanted)
    return found.float(), (0.5 - mean @ found).float()


def _still_grown(graph: TopicGraph, name: str, expert: int | None) -> list[Mapping[str, Any]]:
    kept: Sequence[Mapping[str, Any]] = [each for each in graph.config.get(_GROWN, []) if each["topic"] != name]
    return [{**each, "expert": each["expert"] - (expert is not None and each["expert"] > expert)} for each in kept]


def _plain(name: str) -> str:
    return "".join(name.casefold().split())
