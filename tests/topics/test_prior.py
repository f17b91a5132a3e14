"""The prior: a distribution, right where it was taught, and blind to everything but its own prompt."""

import math
from dataclasses import replace

import pytest
import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.prior import (
    TopicPrior,
    confidence,
    prior_from_embeddings,
    prior_from_tags,
    tag_membership,
)
from topiclora_cli.topics.projector import Prompts, gather_training_pairs
from topiclora_cli.topics.settings import GraphSettings

PROMPTS = [
    ("what is 3 plus 4 ?", ["sums"]),
    ("add 10 and 12 and 9", ["sums"]),
    ("solve x + 2 = 5 for x", ["sums", "algebra"]),
    ("solve the equation 3 y = 12 for y", ["algebra"]),
    ("prove that the sum of two even numbers is even", ["proofs", "sums"]),
    ("prove the theorem by induction", ["proofs"]),
    ("write a verse about the sea that rhymes", ["poems"]),
    ("write a verse about snow", ["poems"]),
    ("tell a joke about a dog", ["jokes"]),
    ("tell a joke about cheese", ["jokes", "unknown topic"]),
    ("write a tale about two people and a dog", ["stories"]),
    ("write a tale about a king", ["stories"]),
]
TEXTS, TAGS = [text for text, _ in PROMPTS], [tags for _, tags in PROMPTS]


@pytest.fixture(scope="module")
def encoder():
    return HashEncoder(64)


@pytest.fixture(scope="module")
def taught(small, encoder):
    texts, names = encoder.encode(small.texts), encoder.encode(small.task_texts)
    pairs = gather_training_pairs(small, texts, names, Prompts(encoder.encode(TEXTS), TAGS))
    return fit_topic_graph(small, encoder, GraphSettings(num_experts=2, width=16, steps=60), pairs=pairs)


def test_the_prior_by_hand(taught, encoder):
    embedding = encoder.encode([TEXTS[2]])
    found = prior_from_embeddings(taught, embedding, top_topics=3, temperature=0.25, epsilon=0.1)
    features = (embedding[0] - taught.feature_mean) / taught.feature_scale
    scores = (features @ taught.projector_weight + taught.projector_bias).tolist()
    best = sorted(range(6), key=lambda t: -scores[t])[:3]
    total = sum(math.exp(scores[t] / 0.25) for t in best)
    wanted = torch.full((2,), 0.1 / 2)
    for t in best:
        wanted += 0.9 * math.exp(scores[t] / 0.25) / total * taught.assignment[t]
    torch.testing.assert_close(found.prior[0], wanted)
    torch.testing.assert_close(found.relevance[0], torch.tensor(scores))
    entropy = -sum(float(p) * math.log(float(p)) for p in wanted)
    assert float(found.confidence[0]) == pytest.approx(1 - entropy / math.log(2), abs=1e-5)


def test_the_prior_is_a_distribution_of_its_own_prompt_alone(taught, encoder):
    prior = TopicPrior(taught, encoder)
    together = prior(TEXTS)
    assert together.prior.shape == (12, 2)
    assert together.relevance.shape == (12, 6)
    torch.testing.assert_close(together.prior.sum(1), torch.ones(12))
    assert (together.prior > 0).all()
    backwards = prior(TEXTS[::-1])
    for row, text in enumerate(TEXTS):
        alone = prior([text])
        torch.testing.assert_close(alone.prior[0], together.prior[row])
        torch.testing.assert_close(backwards.prior[11 - row], together.prior[row])
    assert not torch.allclose(together.prior[0], together.prior[6])


def test_no_prompts_make_an_empty_batch(taught, encoder):
    assert TopicPrior(taught, encoder)([]).prior.shape == (0, 2)


def test_taught_prompts_go_to_their_topics_expert(taught, encoder):
    found = TopicPrior(taught, encoder)(TEXTS)
    member = tag_membership(taught, TAGS)
    assert member.gather(1, found.relevance.argmax(1, keepdim=True)).all()
    assert torch.equal(found.prior.argmax(1), prior_from_tags(taught, TAGS).argmax(1))
    assert found.confidence.mean() > 0.3
    unseen = TopicPrior(taught, encoder)(["solve z + 4 = 9 for z", "tell a joke about a verse"])
    owners = taught.assignment.argmax(1)
    assert unseen.prior.argmax(1).tolist() == [owners[1], owners[4]]


def test_tags_make_the_prior_of_their_topics(taught):
    found = prior_from_tags(taught, [["sums", "algebra", "sums"], [], ["nobody knows"]], epsilon=0.1)
    torch.testing.assert_close(found[0], 0.9 * taught.assignment[:2].mean(0) + 0.05)
    assert found[1:].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_confidence_ends():
    found = confidence(torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.5]))


def test_uniform_assignment_makes_a_uniform_prior(taught, encoder):
    flat = replace(taught, assignment=torch.full((6, 2), 0.5))
    found = TopicPrior(flat, encoder)(TEXTS)
    torch.testing.assert_close(found.prior, torch.full((12, 2), 0.5))
    torch.testing.assert_close(found.confidence, torch.zeros(12), atol=1e-6, rtol=0)


def test_sharper_where_labels_are_surer(small, generator):
    """Prompts whose embedding gives their topic away deserve a lower temperature than prompts with noisy tags."""
    topics = torch.randint(0, 6, (300,), generator=generator)
    clear = torch.nn.functional.one_hot(topics, 64).float() + 0.01 * torch.randn(300, 64, generator=generator)
    names = [[small.names[t]] for t in topics]
    noise = [[small.names[t]] for t in torch.randint(0, 6, (300,), generator=generator)]
    features = HashEncoder(64).encode(small.texts)

    def temperature(tags):
        pairs = gather_training_pairs(small, features, prompts=Prompts(clear, tags))
        graph = fit_topic_graph(small, features, GraphSettings(num_experts=2, width=8, steps=2), pairs=pairs)
        return graph.config["prior"]["temperature"]

    assert temperature(names) < temperature(noise)


def test_another_encoder_is_refused(small_graph):
    with pytest.raises(TopicLoraError, match="'hash:64', not 'hash:32'"):
        TopicPrior(small_graph, HashEncoder(32))


def test_an_encoder_whose_width_changed_is_refused(small_graph):
    changed = HashEncoder(32)
    changed.id = small_graph.encoder_id
    with pytest.raises(TopicLoraError, match=r"shape \(2, 32\); the topic graph was built on rows of 64"):
        TopicPrior(small_graph, changed)(["one", "two"])


@pytest.mark.parametrize("setting", [{"top_topics": 0}, {"temperature": 0.0}, {"epsilon": 1.5}])
def test_bad_prior_settings_are_refused(taught, encoder, setting):
    with pytest.raises(TopicLoraError, match="make no distribution"):
        TopicPrior(taught, encoder, **setting)(["text"])
