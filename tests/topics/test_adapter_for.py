"""Of several adapters the one whose topics a prompt is most about."""

from types import SimpleNamespace

import torch

from topiclora_cli.topics.adapters import adapter_for

GRAPH = SimpleNamespace(
    topics=("sums", "algebra", "poems", "jokes"),
    num_topics=4,
    config={"prior": {"top_topics": 3, "temperature": 0.5}},
)
TOPICS = {"sums": "maths", "algebra": "maths", "poems": "poems", "jokes": "mean"}


def test_the_adapter_with_most_of_the_weight_is_chosen():
    relevance = torch.tensor([[0.9, 0.2, 0.1, 0.0], [0.0, 0.1, 0.8, 0.2], [0.6, 0.6, 0.7, 0.0], [0.0, 0.0, 0.0, 2.0]])
    assert adapter_for(GRAPH, relevance, TOPICS) == ["maths", "poems", "maths", "mean"]


def test_topics_beyond_the_best_have_no_weight():
    relevance = torch.tensor([[1.0, 0.99, 1.01, 0.98]])
    everyone = adapter_for(GRAPH, relevance, {"sums": "a", "algebra": "b", "poems": "b", "jokes": "a"})
    assert everyone == ["b"]
