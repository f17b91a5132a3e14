"""Topics found in prompts gather what belongs together, have names of their own, and come out the same every time."""

from collections import Counter

import pytest
import torch

from tests.conftest import DATA, needs_data
from topiclora_cli.data.families import mixture
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.induce import induce_taxonomy
from topiclora_cli.topics.prior import prior_from_embeddings
from topiclora_cli.topics.projector import Prompts, gather_training_pairs
from topiclora_cli.topics.settings import GraphSettings

PROMPTS = [
    *(f"Translate the word number {i} into French." for i in range(10)),
    *(f"Sort these names, list {i}, alphabetically." for i in range(8)),
    *(f"Compute {i} plus {i + 3}; give the sum." for i in range(12)),
]
KINDS = ["french"] * 10 + ["sort"] * 8 + ["sum"] * 12


def induce(prompts=PROMPTS, count=3, seed=0):
    return induce_taxonomy(prompts, HashEncoder(128).encode(prompts), count, seed=seed)


def purity(tags, kinds):
    """Share of prompts whose kind is the commonest of their topic."""
    members = {}
    for (topic,), kind in zip(tags, kinds, strict=True):
        members.setdefault(topic, Counter())[kind] += 1
    return sum(max(kinds.values()) for kinds in members.values()) / len(tags)


def test_kinds_of_prompt_become_topics_named_by_their_words():
    taxonomy, tags = induce()
    assert purity(tags, KINDS) == 1
    assert {topic for (topic,) in tags} == set(taxonomy.names)
    assert not taxonomy.tasks
    french = next(topic for topic in taxonomy.topics if topic.name == tags[0][0])
    assert french.name == "french, into"
    assert french.description.startswith("french, into, ")
    assert "; for example: Translate the word number" in french.description


def test_one_seed_gives_one_taxonomy_and_leaves_the_random_state():
    prompts = [e.prompt for e in mixture("train", 6, seed=0)]
    state = torch.get_rng_state()
    once, again, other = (induce(prompts, 8, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert once == again
    assert once[1] != other[1]


def test_the_number_of_topics_follows_the_number_of_prompts():
    prompts = [e.prompt for e in mixture("train", 20, seed=0)]
    assert [len(induce(prompts[:n], None)[0].topics) for n in (10, 64, 320)] == [2, 8, 32]


@pytest.mark.parametrize("prompts", [["1 + 1"] * 4, ["one two"] * 4, [str(i) for i in range(4)]])
def test_names_stay_apart_where_words_do_not(prompts):
    taxonomy, tags = induce(prompts, 3)
    assert len(set(taxonomy.names)) == 3
    assert all(topic.name and topic.description for topic in taxonomy.topics)
    assert {topic for (topic,) in tags} == set(taxonomy.names)


def test_long_prompts_are_shortened_to_one_line():
    taxonomy, _ = induce(["word\n" * 200, "other\n" * 200], 2)
    assert all(len(topic.description) < 260 and "\n" not in topic.description for topic in taxonomy.topics)


def test_the_prior_learns_induced_topics_from_their_prompts():
    examples = mixture("train", 16, seed=0)
    prompts = [e.prompt for e in examples]
    embeddings = HashEncoder().encode(prompts)
    taxonomy, tags = induce_taxonomy(prompts, embeddings)
    features = HashEncoder().encode(taxonomy.texts)
    pairs = gather_training_pairs(taxonomy, features, prompts=Prompts(embeddings, tags))
    graph = fit_topic_graph(taxonomy, features, GraphSettings(num_experts=4, width=16, steps=40), pairs=pairs)
    held_out = mixture("validation", 4, seed=0)
    found = prior_from_embeddings(graph, HashEncoder().encode([e.prompt for e in held_out]))
    experts_of = {}
    for expert, example in zip(found.prior.argmax(1).tolist(), held_out, strict=True):
        experts_of.setdefault(example.topics, Counter())[expert] += 1
    # Unseen prompts of one family go to one expert; four prompts at random over four experts would reach 0.53.
    assert sum(max(experts.values()) for experts in experts_of.values()) / len(held_out) > 0.8


@pytest.mark.parametrize(
    ("prompts", "count", "message"),
    [
        (["a", "b"], 3, "3 topics cannot be induced from 2 prompts"),
        ([], None, "2 topics cannot be induced from 0 prompts"),
        (["a", "b"], 1, "1 topics cannot"),
        (["a", " \n", ""], 2, "2 of 3 prompts are empty"),
    ],
)
def test_what_cannot_be_clustered_is_refused(prompts, count, message):
    with pytest.raises(TopicLoraError, match=message) as caught:
        induce(prompts, count)
    assert caught.value.hint


def test_embeddings_must_fit():
    with pytest.raises(TopicLoraError, match="for 2 prompts"):
        induce_taxonomy(["a", "b"], torch.ones(3, 4), 2)
    with pytest.raises(TopicLoraError, match="not finite"):
        induce_taxonomy(["a", "b"], torch.full((2, 4), torch.nan), 2)


@needs_data
def test_topics_of_bigbench_follow_its_tasks():
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(DATA / "bigbench" / "train.parquet", columns=["input", "task"])
    table = table.take(torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:1500].tolist())
    prompts, tasks = table["input"].to_pylist(), table["task"].to_pylist()
    _, tags = induce_taxonomy(prompts, HashEncoder().encode(prompts))
    order = torch.randperm(len(tags), generator=torch.Generator().manual_seed(0)).tolist()
    assert purity([tags[i] for i in order], tasks) < 0.15
    assert purity(tags, tasks) > 0.5
