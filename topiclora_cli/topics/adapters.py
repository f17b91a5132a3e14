"""Which of several adapters, each for some topics, a prompt is for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from topiclora_cli.topics.prior import topic_shares
from topiclora_cli.topics.store import TopicGraph


def adapter_for(graph: TopicGraph, relevance: Tensor, topics: Mapping[str, str]) -> list[str]:
    """For each prompt, of topic scores (n, T), the adapter whose topics have most of the prior's weight.

    topics: every topic of the graph -> an adapter's name. Of equal adapters the first by name is taken.
    """
    names = sorted(set(topics.values()))
    place = {name: index for index, name in enumerate(names)}
    owner = torch.tensor([place[topics[topic]] for topic in graph.topics])
    shares = topic_shares(graph, relevance)
    weights = shares.new_zeros(len(shares), len(names)).index_add_(1, owner, shares)
    return [names[best] for best in weights.argmax(1).tolist()]
