"""What the routers do with topics: the routing-by-topic table and the numbers that tell meaning from collapse."""

import math
from collections.abc import Mapping, Sequence
from statistics import mode

import torch
from torch import Tensor

from topiclora_cli.runs.results.evaluation import RoutingReport
from topiclora_cli.topics.distributions import entropy, mutual_information


def routing_report(
    gates: Mapping[str, Tensor], topics: Sequence[Sequence[str]], *, on: str = "held-out examples"
) -> RoutingReport | None:
    """Summarise per-example gates (adapted linear -> (N, E)) by the examples' topics; None where nothing is routed.

    An example with several topics counts for each in equal parts.
    """
    mean = mean_routing(gates)
    if mean is None:
        return None
    names = sorted({topic for tags in topics for topic in tags})
    membership = torch.zeros(len(names), len(topics))
    for column, tags in enumerate(topics):
        for topic in tags:
            membership[names.index(topic), column] = 1 / len(tags)
    mass = membership @ mean  # (T, E): joint weight of topic and expert
    rows = mass / mass.sum(-1, keepdim=True).clamp_min(1e-12)
    load = mean.mean(0)
    return RoutingReport(
        by_topic={name: [round(v, 4) for v in row.tolist()] for name, row in zip(names, rows, strict=True)},
        experts_in_use=float(1 / load.square().sum()),
        entropy=float(entropy(mean).mean() / math.log(mean.shape[-1])),
        mutual_information=mutual_information(mass),
        largest_load=float(load.max()),
        on=on,
    )


def mean_routing(gates: Mapping[str, Tensor]) -> Tensor | None:
    """Shares of the experts (N, E), rows sum to 1, over the adapted linears; None where nothing is routed.

    Where layers differ in E, it is the mean of those with the most frequent one.
    """
    routed = [layer for layer in gates.values() if layer.shape[-1] > 1]
    if not routed:
        return None
    usual = mode(layer.shape[-1] for layer in routed)
    mean = torch.stack([layer for layer in routed if layer.shape[-1] == usual]).mean(0)
    return mean / mean.sum(-1, keepdim=True).clamp_min(1e-12)
