"""Edges follow tags and texts; the random control keeps degrees and nothing else."""

import math

import pytest
import torch

from tests.topics.large import large_taxonomy
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics import graph as module
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.graph import adjacency, build_graph, diffusion, npmi, rewire, standardise
from topiclora_cli.topics.taxonomy import Taxonomy, Topic, load_taxonomy


def topics(*names):
    return tuple(Topic(name, f"about {name}") for name in names)


def test_npmi_by_hand():
    taxonomy = Taxonomy(
        topics("a", "b", "c"), {"1": ("a", "b"), "2": ("a", "b"), "3": ("a", "c"), "4": ("c",), "5": ("b",)}
    )
    out = npmi(taxonomy).to_dense()
    ab, ac = (2 / 5, 3 / 5, 3 / 5), (1 / 5, 3 / 5, 2 / 5)
    for (s, t), (joint, p, q) in {(0, 1): ab, (0, 2): ac}.items():
        assert out[s, t] == pytest.approx(math.log(joint / (p * q)) / -math.log(joint))
        assert out[t, s] == out[s, t]
    assert out[1, 2] == 0
    assert out.diagonal().tolist() == [0, 0, 0]


def test_npmi_of_inseparable_topics():
    assert npmi(Taxonomy(topics("a", "b"), {"1": ("a", "b"), "2": ("c",)[:0]})).to_dense()[0, 1] == pytest.approx(1.0)
    assert npmi(Taxonomy(topics("a", "b"), {"1": ("a", "b")})).to_dense()[0, 1] == 0


def test_edge_weights_by_hand(small, generator):
    features = torch.randn(6, 10, generator=generator)
    data = build_graph(small, features, npmi_weight=0.3, cosine_floor=0.1, neighbours=5)
    x = standardise(features)
    found = adjacency(data.edge_index, data.edge_weight, 6)
    ties = npmi(small).to_dense()
    for s in range(6):
        for t in range(6):
            cosine = float(x[s] @ x[t] / (x[s].norm() * x[t].norm()))
            wanted = 0.3 * max(0.0, float(ties[s, t])) + 0.7 * max(0.0, cosine - 0.1)
            assert found[s, t] == pytest.approx(0.0 if s == t else wanted, abs=1e-6)
    torch.testing.assert_close(data.x, x)


def test_only_the_strongest_ties_stay(bigbench, hashed):
    full = build_graph(bigbench, hashed, neighbours=51)
    few = build_graph(bigbench, hashed, neighbours=3)
    dense, sparse = (adjacency(g.edge_index, g.edge_weight, 52) for g in (full, few))
    assert torch.equal(sparse, sparse.T)
    for row, kept in zip(dense, sparse, strict=True):
        third = row.topk(3).values[-1]
        assert (kept[row > third] > 0).all()
    assert 0 < few.edge_index.shape[1] < full.edge_index.shape[1]
    assert few.edge_index.shape[1] <= 2 * 3 * 52


@pytest.mark.parametrize("name", ["bigbench", "mmlu"])
def test_blocks_of_rows_make_the_same_graph(name, monkeypatch):
    taxonomy = load_taxonomy(name)
    hashed = HashEncoder().encode(taxonomy.texts)
    whole = build_graph(taxonomy, hashed)
    monkeypatch.setattr(module, "BLOCK", 7)
    parts = build_graph(taxonomy, hashed)
    assert torch.equal(parts.edge_index, whole.edge_index)
    torch.testing.assert_close(parts.edge_weight, whole.edge_weight)


def test_text_alone_makes_a_graph(generator):
    taxonomy = Taxonomy(topics("a", "b", "c", "d"))
    base = torch.randn(2, 20, generator=generator)
    data = build_graph(taxonomy, torch.cat((base, base + 0.01)))
    assert {frozenset(edge) for edge in data.edge_index.T.tolist()} == {frozenset((0, 2)), frozenset((1, 3))}
    assert (data.edge_weight > 0.7).all()


def test_text_alone_leaves_no_topic_without_a_tie_while_tags_may():
    mmlu = load_taxonomy("mmlu")
    hashed = HashEncoder().encode(mmlu.texts)
    tagged = Taxonomy(mmlu.topics, {"exam": mmlu.names[:2]})
    alone, beside = (set(build_graph(taxonomy, hashed).edge_index[0].tolist()) for taxonomy in (mmlu, tagged))
    assert len(alone) == 57
    assert len(beside) < 30


def test_no_edges_is_an_error():
    taxonomy = Taxonomy(topics("a", "b", "c"))
    with pytest.raises(TopicLoraError, match="no edges") as caught:
        build_graph(taxonomy, torch.eye(3))
    assert "descriptions" in caught.value.hint


def test_bad_features_are_refused(small):
    with pytest.raises(TopicLoraError, match="5 feature rows for 6"):
        build_graph(small, torch.zeros(5, 3))
    with pytest.raises(TopicLoraError, match="not finite"):
        build_graph(small, torch.full((6, 3), torch.nan))


def test_rewire_keeps_degrees_and_weights_but_moves_edges(bigbench, hashed):
    data = build_graph(bigbench, hashed)
    random = rewire(data, seed=1)
    before, after = (adjacency(g.edge_index, g.edge_weight, 52) for g in (data, random))
    assert torch.equal((before > 0).sum(1), (after > 0).sum(1))
    assert torch.equal(before[before > 0].sort().values, after[after > 0].sort().values)
    assert torch.equal(after, after.T)
    assert (after.diagonal() == 0).all()
    same = ((before > 0) & (after > 0)).sum() / (before > 0).sum()
    assert same < 0.5
    assert torch.equal(after, adjacency(*_edges(rewire(data, seed=1)), 52))
    assert not torch.equal(after, adjacency(*_edges(rewire(data, seed=2)), 52))


def _edges(data):
    return data.edge_index, data.edge_weight


def test_diffusion_is_the_exponential_of_the_laplacian(small, generator):
    data = build_graph(small, torch.randn(6, 12, generator=generator))
    weight = adjacency(data.edge_index, data.edge_weight, 6)
    scale = weight.sum(1).rsqrt()
    laplacian = torch.eye(6) - scale[:, None] * weight * scale[None]
    whole = torch.matrix_exp(-2 * laplacian.double())
    root = diffusion(weight)
    torch.testing.assert_close(root @ root.T, whole / whole.diagonal().mean(), atol=1e-5, rtol=1e-4)


def test_diffusion_of_a_large_graph_is_its_leading_part():
    taxonomy, features = large_taxonomy(600, 2400, width=32)
    data = build_graph(taxonomy, features, npmi_weight=1.0)
    sparse = adjacency(data.edge_index, data.edge_weight, 600)
    part, whole = diffusion(sparse, rank=100), diffusion(sparse.to_dense())
    assert part.shape == (600, 100)
    near, true = part @ part.T, whole @ whole.T
    angle = (near * true).sum() / (near.norm() * true.norm())
    assert angle > 0.7
    assert torch.equal(diffusion(sparse, rank=100), part)


@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_handful_of_topics_without_tasks_has_ties(count, generator):
    """Centred, their cosines are negative on average, and may all be."""
    taxonomy = Taxonomy(tuple(Topic(f"topic {i}", "") for i in range(count)))
    for _ in range(5):
        assert build_graph(taxonomy, torch.randn(count, 64, generator=generator)).edge_weight.numel() > 0


def test_a_handful_of_topics_whose_few_tasks_tie_none_has_ties(generator):
    """Over two tasks every mutual information is 0."""
    taxonomy = Taxonomy(topics("a", "b", "c"), {"1": ("a", "b"), "2": ("a",)})
    assert npmi(taxonomy).to_dense().amax() == 0
    for _ in range(5):
        assert build_graph(taxonomy, torch.randn(3, 64, generator=generator)).edge_weight.numel() > 0
