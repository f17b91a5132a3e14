"""What the GraphML file says is what the graph holds, for a plain XML reader and for networkx."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from topiclora_cli.topics.graphml import write_graphml

NAMESPACE = "http://graphml.graphdrawing.org/xmlns"


def test_plain_xml(small_graph, tmp_path):
    awkward = replace(small_graph, descriptions=('a < b & "c"\nżółw', *small_graph.descriptions[1:]))
    root = ET.parse(write_graphml(awkward, tmp_path / "new folder" / "graph.graphml")).getroot()
    spaces = {"g": NAMESPACE}
    nodes = [
        {data.get("key"): data.text or "" for data in node.findall("g:data", spaces)}
        for node in root.findall("g:graph/g:node", spaces)
    ]
    assert tuple(node["name"] for node in nodes) == awkward.topics
    assert tuple(node["description"] for node in nodes) == awkward.descriptions
    assert {key.get("id") for key in root.findall("g:key", spaces)} == {*nodes[0], "weight"}
    assert len(root.findall("g:graph/g:edge", spaces)) == awkward.edge_index.shape[1] // 2


def test_networkx_reads_it(small_graph, tmp_path):
    net = nx.read_graphml(write_graphml(small_graph, tmp_path / "graph.graphml"))
    assert not net.is_directed()
    assert [node["group"] for node in dict(net.nodes(data=True)).values()] == list(small_graph.groups)
    for topic, shares in enumerate(small_graph.assignment):
        node = net.nodes[f"t{topic}"]
        assert node["expert"] == int(shares.argmax())
        assert [node[f"assignment_{e}"] for e in range(2)] == pytest.approx(shares.tolist())
    for (s, t), weight in zip(small_graph.edge_index.T.tolist(), small_graph.edge_weight.tolist(), strict=True):
        assert net.edges[f"t{s}", f"t{t}"]["weight"] == pytest.approx(weight)
