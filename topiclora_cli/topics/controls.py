"""Assignments of topics to experts that are not learnt: what the learnt one has to beat.

Topics sorted into experts by their BIG-bench headings, by k-means on the text alone, by spectral clustering of the
graph alone, at random, or not at all. Each gives an assignment S of the same shape, so that everything after stage 1
runs unchanged.
"""

import warnings
from collections import Counter

import torch
from torch import Tensor
from torch.nn import functional as F

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.experts import spread_seeds
from topiclora_cli.topics.sparse import leading_eigenvectors
from topiclora_cli.topics.taxonomy import Taxonomy


def shuffled(assignment: Tensor) -> Tensor:
    """Rows of S (T, E) handed to the wrong topics: every expert keeps its share, and topics lose their meaning.

    Draws from the global generator.
    """
    return assignment[torch.randperm(len(assignment))]


def uniform(assignment: Tensor) -> Tensor:
    """Every expert equally likely for every topic: the prior becomes plain load balance."""
    return torch.full_like(assignment, 1 / assignment.shape[1])


def group_labels(taxonomy: Taxonomy, num_experts: int) -> Tensor:
    """One expert per group of topics (T,); where groups outnumber experts, the largest remaining joins the emptiest.

    Raises TopicLoraError when groups are fewer than experts, or topics have none.
    """
    sizes = Counter(topic.group for topic in taxonomy.topics)
    if "" in sizes or len(sizes) < num_experts:
        raise TopicLoraError(
            f"The control 'groups' needs at least {num_experts} groups covering every topic; the taxonomy has "
            f"{len(set(sizes) - {''})}, and {sizes['']} topics have none.",
            "Use fewer experts, or give every topic a group.",
        )
    load = [0] * num_experts
    expert_of: dict[str, int] = {}
    for group, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        expert_of[group] = load.index(min(load))
        load[expert_of[group]] += size
    return torch.tensor([expert_of[topic.group] for topic in taxonomy.topics])


def kmeans_labels(x: Tensor, num_experts: int, *, rounds: int = 50) -> Tensor:
    """Cluster of each row of x (T, d) by spherical k-means, none empty; draws from the global generator."""
    unit = F.normalize(x, dim=1)
    centres = unit[spread_seeds(unit, num_experts)]
    for _ in range(rounds):
        cosine = unit @ centres.T
        labels = cosine.argmax(1)
        for empty in set(range(num_experts)) - set(labels.tolist()):
            # The row that fits its centre worst, of a cluster that can spare one, starts the empty cluster anew.
            crowded = torch.bincount(labels, minlength=num_experts)[labels] > 1
            fit = cosine.gather(1, labels[:, None])[:, 0].masked_fill(~crowded, torch.inf)
            labels[fit.argmin()] = empty
        centres = label_centres(unit, labels, num_experts)
    return labels


def spectral_labels(weight: Tensor, num_experts: int) -> Tensor:
    """Cluster of each topic (T,) of the graph (T, T), dense or sparse, by spectral clustering, none empty.

    k-means on the unit rows of the E eigenvectors of the normalised Laplacian with the smallest eigenvalues (Ng,
    Jordan and Weiss, 2002). Draws from the global generator.
    """
    # Every command loads this module, and scikit-learn takes a second.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    start = torch.rand(len(weight), dtype=torch.float64) if weight.layout is not torch.strided else None
    # scikit-learn's own eigenvectors are no better from 200 topics on, and take 9 s in place of 0.4 at 3000.
    _, vectors = leading_eigenvectors(weight, num_experts, start=start)
    rows = F.normalize(vectors, dim=1).float()
    means = KMeans(num_experts, n_init=10, random_state=int(torch.randint(2**31, ())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = torch.from_numpy(means.fit_predict(rows.numpy())).long()
    # Topics without ties can lie on one point, which leaves fewer points than experts.
    return labels if len(labels.unique()) == num_experts else kmeans_labels(rows, num_experts)


def label_centres(z: Tensor, labels: Tensor, num_experts: int) -> Tensor:
    """Unit mean (E, d) of the rows of z (T, d) that carry each label."""
    members = F.one_hot(labels, num_experts).to(z.dtype)  # (T, E)
    return F.normalize(members.T @ z, dim=1)


def label_assignment(labels: Tensor, num_experts: int, *, certainty: float = 0.9) -> Tensor:
    """S (T, E) from hard labels: `certainty` on the labelled expert, the rest spread over the others."""
    rest = (1 - certainty) / (num_experts - 1)
    return F.one_hot(labels, num_experts) * (certainty - rest) + rest
