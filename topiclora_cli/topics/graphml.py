"""The topic graph for other tools: GraphML, as networkx, igraph, Gephi and Cytoscape read it."""

from pathlib import Path

import networkx as nx

from topiclora_cli.runs.files import replacing
from topiclora_cli.topics.store import TopicGraph


def write_graphml(graph: TopicGraph, path: str | Path) -> Path:
    """Write topics with what is known of each, and every tie once with its weight.

    A node has name, description, group, its leading `expert`, and `assignment_e` = S[t, e] for every expert e.
    """
    net = nx.Graph()
    owners = graph.assignment.argmax(1).tolist()
    for topic, shares in enumerate(graph.assignment.tolist()):
        net.add_node(
            f"t{topic}",
            name=graph.topics[topic],
            description=graph.descriptions[topic],
            group=graph.groups[topic],
            expert=owners[topic],
            **{f"assignment_{expert}": share for expert, share in enumerate(shares)},
        )
    for (source, target), weight in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True):
        if source < target:
            net.add_edge(f"t{source}", f"t{target}", weight=weight)
    path = Path(path)
    with replacing(path) as temporary:
        nx.write_graphml_xml(net, temporary, named_key_ids=True)
    return path
