"""What can be said of a topic graph in numbers: its shape, its experts, and how far to believe the assignment."""

from dataclasses import dataclass

import networkx as nx
import torch

from topiclora_cli.topics.attribution import AttributionReport
from topiclora_cli.topics.choose import Choice
from topiclora_cli.topics.compare import Comparison
from topiclora_cli.topics.experts import AssignmentReport, SeparationReport, assignment_report, separation_report
from topiclora_cli.topics.graph import adjacency
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.validate import LinkReport


@dataclass(frozen=True)
class ShapeReport:
    """A graph without its meaning.

    density: share of the possible ties that are there. Degrees count ties. components: parts with no tie between them,
    each topic of `isolated`, which have no tie at all, among them.
    """

    density: float
    mean_degree: float
    max_degree: int
    components: int
    isolated: tuple[str, ...]


@dataclass(frozen=True)
class GraphReport:
    """Stage 1 in numbers, as `graph/report.json` holds them.

    dead_experts: those that are no topic's first choice. choice: why so many experts. None where a part was not
    measured, or nothing chosen.
    """

    topics: int
    experts: int
    edges: int
    shape: ShapeReport
    separation: SeparationReport
    assignment: AssignmentReport
    dead_experts: tuple[int, ...]
    links: LinkReport | None
    comparison: Comparison | None
    attribution: AttributionReport | None
    choice: Choice | None
    topics_by_expert: dict[int, list[str]]


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
            expert: [name for name, owner in zip(graph.topics, owners, strict=True) if owner == expert]
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
