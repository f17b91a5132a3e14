"""A topic more or one fewer in a graph: the others stay as they are, and the new one is found by its prompts."""

from dataclasses import replace

import pytest
import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.grow import apart_from, texts_with, with_topic, without_topic
from topiclora_cli.topics.prior import prior_from_embeddings
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Topic

OWN = ["what is the capital of France ?", "what is the capital of Peru ?", "name the capital of Japan"]
OTHERS = ["add 3 and 4", "solve x + 2 = 5 for x", "write a verse about snow", "tell a joke about a dog"]
TOPIC = Topic("geography", "capitals and rivers of countries, and tales of people who live there")


@pytest.fixture(scope="module")
def encoder():
    return HashEncoder(64)


@pytest.fixture(scope="module")
def grown(small_graph, encoder):
    features = encoder.encode(texts_with(small_graph, TOPIC))
    return with_topic(small_graph, TOPIC, features, encoder.encode(OWN), encoder.encode(OTHERS))


def test_the_new_topic_is_the_last_with_an_expert_of_its_own(small_graph, grown):
    graph = grown.graph
    assert graph.topics == (*small_graph.topics, "geography")
    assert graph.num_experts == small_graph.num_experts + 1
    assert graph.assignment[-1].tolist() == [0, 0, 1]
    assert graph.assignment[:-1, -1].tolist() == [0] * 6


def test_nothing_of_the_old_topics_moves(small_graph, grown, encoder):
    for name in ("topic_vectors", "expert_vectors"):
        assert torch.equal(getattr(grown.graph, name)[:-1], getattr(small_graph, name))
    assert torch.equal(grown.graph.assignment[:-1, :-1], small_graph.assignment)
    assert torch.equal(grown.graph.projector_weight[:, :-1], small_graph.projector_weight)
    before, after = (prior_from_embeddings(graph, encoder.encode(OTHERS)) for graph in (small_graph, grown.graph))
    torch.testing.assert_close(after.relevance[:, :-1], before.relevance)


def test_the_new_topics_prompts_go_to_its_expert_and_the_others_to_theirs(grown, encoder):
    own = prior_from_embeddings(grown.graph, encoder.encode(OWN)).prior
    others = prior_from_embeddings(grown.graph, encoder.encode(OTHERS)).prior
    assert own[:, 2].mean() > 0.5 > 5 * others[:, 2].mean()
    assert grown.relevance[0] > 0.5 > grown.relevance[1]
    assert grown.moved < 0.3


def test_the_new_topic_is_tied_to_what_reads_like_it_and_lies_between_its_neighbours(small_graph, grown):
    names = [name for name, _ in grown.nearest]
    assert names[0] == "stories"
    place = [small_graph.topics.index(name) for name in names]
    weight = torch.tensor([weight for _, weight in grown.nearest])
    mean = torch.nn.functional.normalize(weight @ small_graph.topic_vectors[place], dim=0)
    torch.testing.assert_close(grown.graph.topic_vectors[-1], mean, atol=1e-3, rtol=0)
    assert sorted(grown.graph.edge_index[0, grown.graph.edge_index[1] == 6].tolist()) == sorted(place)


def test_a_new_expert_is_no_nearer_to_the_old_ones_than_they_are_to_one_another(small_graph, grown):
    cosines = grown.graph.expert_vectors[:-1] @ grown.graph.expert_vectors[-1]
    old = small_graph.expert_vectors @ small_graph.expert_vectors.T
    assert cosines.max() <= max(0.0, float(old.fill_diagonal_(-1).max())) + 1e-5
    assert grown.graph.expert_vectors[-1].norm() == pytest.approx(1)


def test_a_new_expert_stands_upright_on_experts_that_its_topic_coincides_with():
    vectors = torch.eye(3, 8)
    torch.testing.assert_close(vectors @ apart_from(vectors, vectors[0]), torch.zeros(3))


def test_vectors_without_a_free_direction_are_refused():
    with pytest.raises(TopicLoraError, match="3 expert vectors of width 3"):
        apart_from(torch.eye(3), torch.ones(3))


def test_a_grown_graph_is_kept_like_any_other_and_grows_again(grown, encoder, tmp_path):
    loaded = TopicGraph.load(grown.graph.save(tmp_path))
    assert loaded.sha256 == grown.graph.sha256
    other = Topic("weather", "rain and snow")
    features = encoder.encode(texts_with(loaded, other))
    twice = with_topic(loaded, other, features, encoder.encode(["will it rain ?", "is it snowing ?"]), features[:-1])
    assert [each["expert"] for each in twice.graph.config["grown"]] == [2, 3]
    assert TopicGraph.load(twice.graph.save(tmp_path)).num_experts == 4


def test_a_topic_that_was_added_goes_with_its_expert_and_leaves_the_graph_as_it_was(small_graph, grown):
    shrunk = without_topic(grown.graph, "geography")
    assert (shrunk.expert, shrunk.owners) == (2, ())
    for name in ("topic_vectors", "expert_vectors", "assignment", "edge_index", "edge_weight", "projector_weight"):
        torch.testing.assert_close(getattr(shrunk.graph, name), getattr(small_graph, name))


def test_an_expert_that_other_topics_share_stays(small_graph, tmp_path):
    shrunk = without_topic(small_graph, "jokes")
    assert shrunk.expert is None
    assert "jokes" not in shrunk.owners
    assert shrunk.owners
    assert shrunk.graph.num_experts == 2
    loaded = TopicGraph.load(shrunk.graph.save(tmp_path))
    assert all("jokes" not in tags for tags in loaded.tasks.values())


def test_an_old_topic_that_goes_renumbers_the_experts_of_those_that_came(small_graph, encoder, tmp_path):
    lone = torch.zeros(6, 2)
    lone[:, 1] = 1
    lone[0] = torch.tensor([1.0, 0.0])  # the first expert is sums' alone
    graph = replace(small_graph, assignment=lone)
    features = encoder.encode(texts_with(graph, TOPIC))
    graph = with_topic(graph, TOPIC, features, encoder.encode(OWN), encoder.encode(OTHERS)).graph
    shrunk = without_topic(graph, "sums")
    assert shrunk.expert == 0
    assert shrunk.graph.config["grown"][0]["expert"] == 1
    assert TopicGraph.load(shrunk.graph.save(tmp_path)).assignment[-1].tolist() == [0, 1]


@pytest.mark.parametrize(("name", "message"), [("Poems ", "'poems' already"), (" ", "no name of a topic")])
def test_a_name_that_is_taken_or_none_is_refused(small_graph, name, message):
    with pytest.raises(TopicLoraError, match=message):
        with_topic(small_graph, Topic(name), torch.ones(7, 64), torch.ones(1, 64), torch.ones(1, 64))


def test_a_topic_that_is_not_there_cannot_go(small_graph):
    with pytest.raises(TopicLoraError, match=r"no topic 'poem'.*Did you mean 'poems'"):
        without_topic(small_graph, "poem")
