"""What can be said of a topic graph in numbers: its shape, its experts, and how far to believe the assignment."""

import networkx as nx
import torch

from topiclora_cli.runs.results.graph import (
    AttributionReport,
    Choice,
    Comparison,
    GraphReport,
    LinkReport,
    ShapeReport,
)
from topiclora_cli.topics.experts import assignment_report, separation_report
from topiclora_cli.topics.graph import adjacency
from topiclora_cli.topics.store import TopicGraph


def graph_report(
    graph: TopicGraph,
    *,
    links: LinkReport | None = None,
    comparison: Comparison | None = None,
    attribution: AttributionReport | None = None,
    choice: Choice | None = None,
) -> GraphReport:
    """Measure a topic graph, and put beside it what was measured elsewhere."""
    assignment = assignment_report(graph.assignment, adjacency(graph.edge_index, graph.edge_weight, graph.num_topics))
    owners = graph.assignment.argmax(1).tolist()
    return GraphReport(
        topics=graph.num_topics,
        experts=graph.num_experts,
        edges=graph.edge_index.shape[1] // 2,
        shape=shape_report(graph),
        separation=separation_report(graph.expert_vectors),
        assignment=assignment,
        dead_experts=assignment.dead,
        links=links,
        comparison=comparison,
        attribution=attribution,
        choice=choice,
        topics_by_expert={
            expert: tuple(name for name, owner in zip(graph.topics, owners, strict=True) if owner == expert)
            for expert in range(graph.num_experts)
        },
    )


def shape_report(graph: TopicGraph) -> ShapeReport:
    """Count ties, degrees and components."""
    count, degree = graph.num_topics, torch.bincount(graph.edge_index[0], minlength=graph.num_topics)
    net = nx.Graph()
    net.add_nodes_from(range(count))
    net.add_edges_from(graph.edge_index.T.tolist())
    return ShapeReport(
        density=nx.density(net),
        mean_degree=float(degree.float().mean()),
        max_degree=int(degree.max()),
        components=nx.number_connected_components(net),
        isolated=tuple(graph.topics[topic] for topic in (degree == 0).nonzero().flatten().tolist()),
    )
