"""From a text vector to topic scores: one linear map, in closed form.

With prompts whose topics are known, ridge regression learns from their text vectors which topics apply: on BIG-bench
this is nearly always right for tasks it has seen. Without, it can only learn to tell the topics' own descriptions
apart, and prompts, if any are at hand, tell where the centre of prompts lies. That is far weaker, and the prior's low
confidence says so.

The scores compare text with topics directly rather than through the topic vectors z: those gather in about E
directions, which is what assigns topics to experts, and too coarse to tell the topics of one expert apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics import prior
from topiclora_cli.topics.store import TopicGraph

TEMPERATURES = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
HOLD_OUT = 5  # every fifth tagged prompt chooses the temperature


@dataclass(frozen=True)
class Projector:
    """Standardisation (f,), (f,), weight (f, T) and bias (T,) of the map from text features (n, f) to scores (n, T)."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor


def fit_projector(features: Tensor, targets: Tensor, *, ridge: float = 0.1) -> Projector:
    """Ridge regression from standardised features (n, f) to targets (n, T): min |XW - Y|^2 / n + ridge |W|^2.

    Solved in whichever of the two equal forms has the smaller system. Raises TopicLoraError for no rows or unequal
    counts.
    """
    if len(features) == 0 or len(features) != len(targets):
        raise TopicLoraError(f"{len(features)} feature rows for {len(targets)} targets.", "Give one target per prompt.")
    mean, scale = column_stats(features)
    x = ((features.float() - mean) / scale).double()  # (n, f)
    bias = targets.double().mean(0)
    y = targets.double() - bias  # (n, T)
    count, width = x.shape
    if count < width:
        weight = x.T @ torch.linalg.solve(x @ x.T + count * ridge * torch.eye(count, dtype=x.dtype), y)
    else:
        weight = torch.linalg.solve(x.T @ x + count * ridge * torch.eye(width, dtype=x.dtype), x.T @ y)
    return Projector(mean, scale, weight.float(), bias.float())


def column_stats(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every column of (n, f); a constant column has deviation 1."""
    spread = features.float().std(0, correction=0)
    return features.float().mean(0), torch.where(spread > 1e-6, spread, torch.ones_like(spread))


def calibrate(
    graph: TopicGraph, embeddings: Tensor, tags: Sequence[Sequence[str]] | None = None, *, ridge: float = 0.1
) -> TopicGraph:
    """A copy of the graph fitted to prompts: their embeddings (n, f) and, where known, the topic names of each.

    With tags: ridge to which topics apply; the prior's temperature is the one that brings the held-out prompts' priors
    closest, in KL, to those of their tags (after temperature scaling, Guo et al., arXiv 1706.04599). Without tags:
    only mean and scale of the features become those of the prompts. Leave out prompts of tasks the model will be
    scored on. Raises TopicLoraError for a wrong width, or tags of which the graph knows none.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != graph.encoder_width or len(embeddings) < 2:
        raise TopicLoraError(
            f"Prompt embeddings have shape {tuple(embeddings.shape)}; needed: 2 rows or more of {graph.encoder_width}.",
            f"Encode the prompts with '{graph.encoder_id}', as the graph was.",
        )
    if tags is None:
        mean, scale = column_stats(embeddings)
        return replace(graph, feature_mean=mean, feature_scale=scale)
    if len(tags) != len(embeddings):
        raise TopicLoraError(f"{len(tags)} tag lists for {len(embeddings)} prompts.", "Give one list per prompt.")
    wanted = prior.tag_membership(graph, tags)  # (n, T), 0 or 1
    known = (wanted.sum(1) > 0).nonzero()[:, 0]
    if len(known) < 2:
        raise TopicLoraError("Fewer than 2 prompts carry a topic of the graph.", "Mend the tags, or give none.")

    config = dict(graph.config)
    held_out = torch.arange(len(known)) % HOLD_OUT == HOLD_OUT - 1
    train, test = known[~held_out], known[held_out]
    if len(test):
        trial = _carrying(graph, fit_projector(embeddings[train], wanted[train], ridge=ridge))
        truth = prior.prior_from_tags(graph, [tags[i] for i in test.tolist()])
        misfit = []
        for heat in TEMPERATURES:
            guess = prior.prior_from_embeddings(trial, embeddings[test], temperature=heat).prior
            misfit.append(float((truth * (truth.log() - guess.log())).sum(1).mean()))
        config["prior"] = {**config["prior"], "temperature": TEMPERATURES[misfit.index(min(misfit))]}
    return replace(_carrying(graph, fit_projector(embeddings[known], wanted[known], ridge=ridge)), config=config)


def _carrying(graph: TopicGraph, projector: Projector) -> TopicGraph:
    return replace(
        graph,
        feature_mean=projector.mean,
        feature_scale=projector.scale,
        projector_weight=projector.weight,
        projector_bias=projector.bias,
    )
