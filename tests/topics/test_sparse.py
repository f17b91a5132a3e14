"""Sparse matrices give what dense ones give, gradients included; a large graph is learnt without any T x T matrix."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.topics.large import COMMUNITY, large_taxonomy
from topiclora_cli.reporting.topics_plot import plot_graph
from topiclora_cli.topics import controls, gnn, sparse, validate
from topiclora_cli.topics import experts as ex
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.gnn import TopicEncoder
from topiclora_cli.topics.graph import adjacency, build_graph
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.validate import link_report

COUNT = 30


@pytest.fixture
def dense(generator):
    upper = torch.rand(COUNT, COUNT, generator=generator, dtype=torch.float64).triu(1)
    upper = upper * (upper > 0.8)
    upper[:, -1] = 0  # one topic without ties
    return upper + upper.T


@pytest.fixture
def matrix(dense):
    edges = dense.nonzero().T
    shuffled = edges[:, torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(1))]
    return sparse.symmetric(shuffled, dense[shuffled[0], shuffled[1]], COUNT)


@pytest.fixture
def z(generator):
    return F.normalize(torch.randn(COUNT, 5, generator=generator, dtype=torch.float64), dim=1)


def gradient(loss, at):
    at = at.clone().requires_grad_()
    value = loss(at)
    value.backward()
    return value.detach(), at.grad


def test_it_is_the_matrix(dense, matrix):
    assert torch.equal(matrix.to_dense(), dense)
    assert torch.equal(ex.degrees(matrix), matrix @ torch.ones(COUNT, dtype=torch.float64))
    some = torch.tensor([4, 29, 0, 17, 8])
    assert torch.equal(sparse.links_among(matrix, some), dense[some][:, some] > 0)


def test_gradients_are_those_of_finite_differences(matrix, z):
    assert torch.autograd.gradcheck(lambda x: sparse.product(matrix, x), z.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda x: sparse.pull(matrix, x, 0.5), z.clone().requires_grad_())


def test_losses_are_those_of_the_dense_matrix(dense, matrix, z):
    """The link loss, too: a graph smaller than the sample is drawn whole."""
    torch.testing.assert_close(
        gradient(lambda x: ex.link_loss(z=x, weight=matrix), z), gradient(lambda x: ex.link_loss(z=x, weight=dense), z)
    )
    logits = z[:, :3] * 5

    def modularity(weight):
        return gradient(lambda x: ex.modularity_loss(assignment=torch.softmax(x, dim=1), weight=weight), logits)

    torch.testing.assert_close(modularity(matrix), modularity(dense))
    assignment = torch.softmax(logits, dim=1)
    torch.testing.assert_close(*(ex.affinity(assignment=assignment, weight=weight) for weight in (matrix, dense)))
    ours, wanted = (ex.assignment_report(assignment, weight) for weight in (matrix, dense))
    assert ours.topics_per_expert == wanted.topics_per_expert
    assert ours.isolated == wanted.isolated == (29,)
    assert ours.modularity == pytest.approx(wanted.modularity)


def test_drawn_non_links_cost_on_average_what_all_do(dense, matrix, z, monkeypatch):
    monkeypatch.setattr(ex, "DENSE", 12)
    torch.manual_seed(0)
    drawn = torch.stack([ex.link_loss(z=z, weight=matrix) for _ in range(400)])
    assert drawn.std() > 0
    assert float(drawn.mean()) == pytest.approx(float(ex.link_loss(z=z, weight=dense)), rel=0.01)


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_convolutions_are_those_along_edges(kind, dense, z, monkeypatch):
    edges = dense.nonzero().T
    weights = dense[edges[0], edges[1]].float()
    torch.manual_seed(0)
    encode = TopicEncoder(kind, 5, 8)
    found = []
    for bound in (COUNT, COUNT - 1):
        monkeypatch.setattr(gnn, "DENSE", bound)
        encode.zero_grad()
        out = encode(z.float(), edges, weights)
        out[:, 0].sum().backward()
        found.append((out.detach(), *(parameter.grad.clone() for parameter in encode.parameters())))
    torch.testing.assert_close(*found)
    assert not torch.allclose(encode(z.float(), edges[:, :0], weights[:0]), found[0][0])


def test_spectral_clusters_are_those_of_the_dense_matrix():
    taxonomy, features = large_taxonomy(200, 1600)
    data = build_graph(taxonomy, features, npmi_weight=1.0)
    matrix = sparse.symmetric(data.edge_index, data.edge_weight, 200)
    owners = []
    for weight in (matrix, matrix.to_dense()):
        torch.manual_seed(0)
        owners.append(controls.spectral_labels(weight, 200 // COMMUNITY))
    for labels in owners:
        assert [len(set(block.tolist())) for block in labels.split(COMMUNITY)] == [1] * 4
        assert len(set(labels.tolist())) == 4


def test_random_unlinked_pairs_stand_for_all(bigbench, hashed, monkeypatch):
    graph = fit_topic_graph(bigbench, hashed, GraphSettings(num_experts=4, steps=20))
    every = link_report(graph, hashed)
    monkeypatch.setattr(validate, "DENSE", 51)
    drawn = link_report(graph, hashed)
    assert drawn == link_report(graph, hashed)
    assert drawn.text_auc == pytest.approx(every.text_auc, abs=0.01)
    assert drawn.auc == pytest.approx(every.auc, abs=0.01)


@pytest.mark.parametrize("control", ["none", "random_graph", "spectral", "kmeans"])
def test_a_large_taxonomy_is_learnt_drawn_and_repeated(control, tmp_path):
    taxonomy, features = large_taxonomy(600, 4800, width=64)
    before = torch.random.get_rng_state()
    options = {"num_experts": 12, "width": 32, "steps": 40, "npmi_weight": 1.0, "control": control}
    graph, again = (fit_topic_graph(taxonomy, features, GraphSettings(**options)) for _ in range(2))
    assert graph.sha256 == again.sha256
    links = link_report(graph, features)
    assert torch.equal(before, torch.random.get_rng_state())
    weight = adjacency(graph.edge_index, graph.edge_weight, 600)
    assert weight.layout is torch.sparse_csr
    report = ex.assignment_report(graph.assignment, weight)
    assert report.dead == ()
    if control in ("none", "spectral"):
        assert report.modularity > 0.7
    assert (links.auc > 0.7) == (control != "random_graph")
    assert plot_graph(graph, tmp_path / "graph.png").stat().st_size > 20_000


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any tensor made meanwhile holds."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_nothing_of_a_large_graph_is_kept_for_all_pairs_of_topics():
    taxonomy, features = large_taxonomy(3000, 24_000, width=64)
    with Largest() as largest:
        graph = fit_topic_graph(taxonomy, features, GraphSettings(num_experts=8, width=32, neighbours=18, steps=3))
        link_report(graph, features)
    assert graph.edge_index.shape[1] // 2 > 20_000
    assert largest.numbers < 3000 * 3000 / 2
