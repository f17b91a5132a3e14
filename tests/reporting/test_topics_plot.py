"""The picture is drawn for any size of graph; that it looks good is for eyes to judge."""

import subprocess
import sys

import pytest
import torch

from topiclora_cli.reporting import topics_plot as module
from topiclora_cli.reporting.topics_layout import apart, by_expert, colours
from topiclora_cli.reporting.topics_plot import expert_names, plot_assignment, plot_cosines, plot_graph
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.settings import GraphSettings


def test_png_of_a_small_and_a_large_graph(small_graph, bigbench, hashed, tmp_path):
    large = fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=12, steps=5))
    for name, graph in (("small", small_graph), ("large", large)):
        path = plot_graph(graph, tmp_path / "new folder" / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 20_000


def test_each_question_has_a_picture(small_graph, tmp_path):
    for name, plot in {"assignment": plot_assignment, "cosines": plot_cosines}.items():
        assert plot(small_graph, tmp_path / f"{name}.png").stat().st_size > 10_000
    light, dark = (plot_graph(small_graph, tmp_path / f"{dark}.png", dark=dark).read_bytes() for dark in (False, True))
    assert light != dark


def test_experts_are_named_by_their_leading_topics(small_graph):
    names = expert_names(small_graph)
    assert len(names) == small_graph.num_experts
    owner = small_graph.assignment.argmax(1).tolist()
    for expert, name in enumerate(names):
        listed = name.removeprefix(f"{expert}: ").split(", ")
        assert all(owner[small_graph.topics.index(topic)] == expert for topic in listed if topic != "no topic")


def test_experts_have_colours_of_their_own():
    for count in (2, 8, 10, 16):
        assert len(set(colours(count))) == count
    assert "#7f7f7f" not in colours(9)


def test_too_many_topics_to_name_are_counted_by_expert(bigbench, hashed, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    graph = fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=4, steps=5))
    monkeypatch.setattr(module, "MOST_DRAWN", 51)
    axes = Figure().subplots()
    module._experts(axes, graph, module.LIGHT)
    owners = torch.bincount(graph.assignment.argmax(1), minlength=4).tolist()
    assert [text.get_text() for text in axes.texts] == [
        f"expert {expert}\n{count} topics" for expert, count in enumerate(owners)
    ]
    inside = sum(len(set(graph.assignment[pair].argmax(1).tolist())) == 1 for pair in graph.edge_index.T)
    assert "52 topics, too many to draw" in axes.get_title()
    assert f"{inside // 2} of {graph.edge_index.shape[1] // 2} ties stay inside" in axes.get_title()
    assert plot_graph(graph, tmp_path / "a.png").stat().st_size > 20_000


def test_a_topic_without_ties_is_drawn_too(small, tmp_path):
    graph = fit_topic_graph(
        small, HashEncoder(64), GraphSettings(num_experts=2, width=8, steps=5, npmi_weight=1.0, neighbours=1)
    )
    assert plot_graph(graph, tmp_path / "a.png").exists()


def test_labels_are_pushed_apart():
    crowded = [*((0.01 * node, 0.0) for node in range(3)), (1.0, 1.0), (0.0, 1.0)]
    placed = apart(crowded)
    heights = sorted(placed[node][1] for node in range(3))
    assert heights[1] - heights[0] > 0.06
    assert heights[2] - heights[1] > 0.06
    assert placed[3] == pytest.approx((1.0, 1.0))


def test_rows_are_sorted_by_expert_then_certainty():
    assignment = torch.tensor([[0.4, 0.6], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    assert by_expert(assignment) == [1, 3, 2, 0]


def test_light_imports():
    code = (
        "import sys; import topiclora_cli.topics as t; assert 'torch' not in sys.modules;"
        "t.TopicGraph, t.TopicPrior, t.gather_training_pairs;"
        "heavy = {'torch_geometric', 'matplotlib', 'networkx', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "assert all(getattr(t, name) for name in t.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
