"""A small taxonomy with two plain communities, and the BIG-bench one with hashed features."""

import pytest
import torch

from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.taxonomy import Taxonomy, Topic, load_taxonomy


@pytest.fixture(scope="session")
def bigbench() -> Taxonomy:
    return load_taxonomy()


@pytest.fixture(scope="session")
def hashed(bigbench):
    """Features of the BIG-bench topics, computed once."""
    return HashEncoder().encode(bigbench.texts)


@pytest.fixture(scope="session")
def small() -> Taxonomy:
    topics = [
        Topic("sums", "adding whole numbers", "maths"),
        Topic("algebra", "solving equations with whole numbers", "maths"),
        Topic("proofs", "showing that a theorem about equations holds", "maths"),
        Topic("poems", "writing verse that rhymes", "language"),
        Topic("jokes", "writing a line that makes people laugh", "language"),
        Topic("stories", "writing a tale about people", "language"),
    ]
    tasks = {f"m{i}": ("sums", "algebra", "proofs")[i % 2 : i % 2 + 2] for i in range(6)}
    tasks |= {f"l{i}": ("poems", "jokes", "stories")[i % 2 : i % 2 + 2] for i in range(6)}
    return Taxonomy(tuple(topics), tasks)


@pytest.fixture(scope="session")
def small_graph(small):
    return fit_topic_graph(small, HashEncoder(64), num_experts=2, width=16, steps=60, seed=0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
