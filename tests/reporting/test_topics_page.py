"""The page stands alone, escapes what users wrote, and is well-formed enough to be read back."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from topiclora_cli.reporting import topics_page as page
from topiclora_cli.reporting.topics_page import write_page
from topiclora_cli.runs.results.graph import AttributionReport, Candidate, Choice
from topiclora_cli.topics.compare import compare
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.graph_report import graph_report
from topiclora_cli.topics.settings import GraphSettings

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Elements, their attributes and text; fails where a tag is closed that is not open."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def written(graph, folder, **parts):
    return write_page(graph, graph_report(graph, **parts), folder / "report.html", title="<i>mine</i>")


@pytest.fixture(scope="module")
def bigbench_page(bigbench, hashed, tmp_path_factory):
    graph = fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=8, steps=10))
    comparison = compare(graph, bigbench, hashed, seeds=1)
    return graph, written(graph, tmp_path_factory.mktemp("page"), comparison=comparison)


def test_it_shows_the_graph_and_is_small(bigbench_page):
    graph, path = bigbench_page
    found = Reader(path)
    assert found.tags.count("circle") == 52
    assert found.tags.count("line") == graph.edge_index.shape[1] // 2
    assert found.tags.count("td") > 52 * 8 + 8 * 8
    for part in (*graph.topics, "learnt, no GNN", "spectral", "Cosine between expert vectors", "components", "gcn"):
        assert part in found.text
    assert path.stat().st_size < 150_000


def test_it_needs_nothing_from_anywhere(bigbench_page):
    found = Reader(bigbench_page[1])
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not {"src", "href", "onload"} & {name for name, _ in found.attributes}
    text = bigbench_page[1].read_text()
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "default-src 'none'" in text


def test_names_are_text(small_graph, tmp_path):
    bad = '</title></svg><script>alert("1")</script>'
    graph = replace(
        small_graph, topics=(bad, *small_graph.topics[1:]), descriptions=('" onload="x', *small_graph.descriptions[1:])
    )
    found = Reader(written(graph, tmp_path))
    assert "script" not in found.tags
    assert "onload" not in {name for name, _ in found.attributes}
    assert "i" not in found.tags
    assert found.text.count(bad) >= 3
    assert "<i>mine</i>" in found.text
    assert "Not compared" in found.text


def test_many_topics_are_drawn_as_experts(small_graph, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_DRAWN", 5)
    monkeypatch.setattr(page, "LEADING", 2)
    found = Reader(written(small_graph, tmp_path))
    assert found.tags.count("circle") == 2
    assert "3 topics: " in found.text
    assert "expert 1: " in found.text
    assert found.text.count("One circle per expert") == 1
    assert sum(name == "title" for name, _ in found.attributes) == 4  # rows of the heat map


def test_parts_that_were_not_measured_are_left_out(small, tmp_path):
    graph = fit_topic_graph(small, HashEncoder(64), GraphSettings(num_experts=2, width=8, steps=2, control="uniform"))
    graph = replace(graph, edge_index=torch.zeros(2, 0, dtype=torch.long), edge_weight=torch.zeros(0))
    text = Reader(written(graph, tmp_path)).text
    assert "AUC" not in text
    assert ", ".join(graph.topics) in text  # topics without a tie
    assert "told from prompts" not in text
    whole = AttributionReport(
        prompts=9, kinds=5, topics=3, seen=0.9, unseen=0.5, no_graph=0.45, frequency=0.3, cosine=0.2,
        information=0.7, kl_seen=0.1, kl_unseen=0.6, kl_uniform=1.2,
    )  # fmt: skip
    assert "0.500; without the graph 0.450" in Reader(written(graph, tmp_path, attribution=whole)).text
    few = replace(whole, unseen=None, no_graph=None, frequency=None, cosine=None, kl_unseen=None)
    text = Reader(written(graph, tmp_path, attribution=few)).text
    assert "0.900" in text
    assert "never seen" not in text


def test_the_number_of_experts_is_explained_where_it_was_chosen(small_graph, tmp_path):
    rows = (Candidate(2, -0.4, 0.01, 0.3, 0), Candidate(3, -0.39, 0.02, 0.2, 1))
    choice = Choice(2, "2 experts foretell <best>.", -0.5, rows)
    text = Reader(written(small_graph, tmp_path, choice=choice)).text
    assert "2 experts foretell <best>." in text
    assert "-0.390 ± 0.020" in text
    assert "Number of experts" not in Reader(written(small_graph, tmp_path)).text
