"""A taxonomy's groups can be the topics: tasks, examples and tags of members are theirs."""

import pytest
import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.levels import at_groups
from topiclora_cli.topics.prior import tag_membership
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy, Topic


def test_bigbench_has_eight_groups_of_its_52_topics(bigbench):
    groups = at_groups(bigbench)
    assert len(groups.topics) == 8
    assert "logic, math, code: algebra, algorithms, arithmetic" in [text[:50] for text in groups.texts]
    assert groups.tasks.keys() == bigbench.tasks.keys()
    assert groups.topics_of(["arithmetic", "algebra", "physics"]) == ("logic, math, code", "scientific understanding")
    assert set(groups.tags) == {*groups.names, *bigbench.names}


def test_tasks_and_examples_of_members_are_the_groups(small):
    with_examples = Taxonomy(small.topics, small.tasks, {"sums": ("1 + 1",), "proofs": ("Show it.",)})
    groups = at_groups(with_examples)
    assert groups.names == ("maths", "language")
    assert groups.tasks["m0"] == ("maths",)
    assert groups.examples == {"maths": ("1 + 1", "Show it.")}


def test_a_saved_graph_of_groups_knows_the_tags_of_members(bigbench, tmp_path):
    settings = GraphSettings(num_experts=4, width=16, steps=5)
    graph = TopicGraph.load(fit_topic_graph(at_groups(bigbench), HashEncoder(64), settings).save(tmp_path))
    found = tag_membership(graph, [["arithmetic", "logic, math, code"], ["physics"], ["no such topic"]])
    assert found.sum(1).tolist() == [1, 1, 0]
    assert torch.equal(found[0], tag_membership(graph, [["logic, math, code"]])[0])


@pytest.mark.parametrize(
    ("topics", "why"),
    [
        ([Topic("a", group="x"), Topic("b"), Topic("c", group="y")], "1 of 3 topics have none, such as 'b'"),
        ([Topic("a", group="x"), Topic("b", group="x")], "there is one"),
    ],
)
def test_topics_without_groups_are_refused(topics, why):
    with pytest.raises(TopicLoraError, match=why):
        at_groups(Taxonomy(tuple(topics)))
