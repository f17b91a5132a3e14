"""The graph in numbers, counted by hand on a graph of six topics."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from topiclora_cli.topics.graph_report import graph_report


def test_shape_and_experts_by_hand(small_graph):
    once = torch.tensor([[0, 0, 1, 3], [1, 2, 2, 4]])  # a triangle, a pair, and topic 5 alone
    owner = torch.tensor([0, 0, 0, 0, 0, 0])
    graph = replace(
        small_graph,
        edge_index=torch.cat((once, once.flip(0)), dim=1),
        edge_weight=torch.ones(8),
        assignment=torch.nn.functional.one_hot(owner, 2).float(),
    )
    report = graph_report(graph)
    assert (report.topics, report.edges, report.experts) == (6, 4, 2)
    assert report.shape.density == pytest.approx(4 / 15)
    assert report.shape.mean_degree == pytest.approx(8 / 6)
    assert (report.shape.max_degree, report.shape.components) == (2, 3)
    assert report.shape.isolated == (graph.topics[5],)
    assert report.assignment.topics_per_expert == (6, 0)
    assert report.dead_experts == (1,)
    assert report.topics_by_expert == {0: graph.topics, 1: ()}


def test_the_report_is_plain_json(small_graph):
    report = asdict(graph_report(small_graph, attribution={"top-1 accuracy": 0.5}))
    plain = json.loads(json.dumps(report))
    assert plain["attribution"] == {"top-1 accuracy": 0.5}
    assert plain["links"] is plain["comparison"] is None
    assert plain["separation"]["simplex_angle"] == pytest.approx(180)
