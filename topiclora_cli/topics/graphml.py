"""The topic graph for other tools: GraphML, as networkx, igraph, Gephi and Cytoscape read it."""

from pathlib import Path
from xml.etree import ElementTree as ET

from topiclora_cli.runs.files import replacing
from topiclora_cli.topics.store import TopicGraph

NAMESPACE = "http://graphml.graphdrawing.org/xmlns"


def write_graphml(graph: TopicGraph, path: str | Path) -> Path:
    """Write topics with what is known of each, and every tie once with its weight.

    A node has name, description, group, its leading `expert`, and `assignment_e` = S[t, e] for every expert e.
    """
    root = ET.Element("graphml", xmlns=NAMESPACE)
    assignments = [f"assignment_{expert}" for expert in range(graph.num_experts)]
    kinds = {"name": "string", "description": "string", "group": "string", "expert": "int"}
    for name, kind in {**kinds, **dict.fromkeys(assignments, "double")}.items():
        ET.SubElement(root, "key", {"id": name, "for": "node", "attr.name": name, "attr.type": kind})
    ET.SubElement(root, "key", {"id": "weight", "for": "edge", "attr.name": "weight", "attr.type": "double"})
    body = ET.SubElement(root, "graph", id="topics", edgedefault="undirected")
    owners = graph.assignment.argmax(1).tolist()
    for topic, shares in enumerate(graph.assignment.tolist()):
        node = ET.SubElement(body, "node", id=f"t{topic}")
        known = (graph.topics[topic], graph.descriptions[topic], graph.groups[topic], owners[topic], *shares)
        for key, value in zip((*kinds, *assignments), known, strict=True):
            ET.SubElement(node, "data", key=key).text = str(value)
    for (source, target), weight in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True):
        if source < target:
            edge = ET.SubElement(body, "edge", source=f"t{source}", target=f"t{target}")
            ET.SubElement(edge, "data", key="weight").text = str(weight)
    ET.indent(root)
    path = Path(path)
    with replacing(path) as temporary:
        ET.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)
    return path
