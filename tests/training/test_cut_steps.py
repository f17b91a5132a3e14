"""A step is a step: the gradient and every logged loss are the same however its examples are cut into micro-batches."""

import functools

import pytest
import torch

from tests.training.cut_steps import TERMS, one_step
from tests.training.test_distributed import finish, torchrun
from topiclora_cli.training import terms, token_terms

pytestmark = pytest.mark.slow  # every term in every cut of a step

LOGGED = ("loss", "routing_entropy", "effective_experts", "largest_load", "grad_norm", "kl_weight", "prior_forcing")
whole = functools.cache(lambda term: one_step(term, 12, 1))


def assert_same(step, reference):
    (gradients, row), (expected, expected_row) = step, reference
    assert gradients.keys() == expected.keys()
    size = torch.cat([value.flatten() for value in expected.values()]).norm()
    apart = torch.cat([(gradients[name] - expected[name]).flatten() for name in expected]).norm()
    assert apart < 1e-6 * size
    names = [name for name in expected_row if name.startswith(LOGGED)]
    assert {name: row[name] for name in names} == pytest.approx({n: expected_row[n] for n in names}, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 2), (5, 3)], ids=["8+4", "5+5+2"])
@pytest.mark.parametrize("term", TERMS)
def test_micro_batches_of_any_size_make_the_same_step(term, batch_size, accumulation):
    assert_same(one_step(term, batch_size, accumulation), whole(term))


@pytest.mark.parametrize("term", ["balance", "gjs"])
def test_dropout_draws_in_training_what_it_drew_when_the_step_was_looked_over(term, monkeypatch):
    seen = []
    original = token_terms.token_loss

    def watched(step, whole, name, parts):
        seen.append({router: (whole.means[f"{name} of {router}"], part.detach()) for router, part in parts.items()})
        return original(step, whole, name, parts)

    monkeypatch.setattr(terms, "token_loss", watched)
    one_step(term, 6, 2, lora_dropout=0.5)
    first, second = seen
    for router, (mean, part) in first.items():
        torch.testing.assert_close(part + second[router][1], mean)


# A router that averages over prompts is refused packed rows; weights know nothing of rows.
@pytest.mark.parametrize("term", sorted({*TERMS} - {"gjs of two parts", "anchor", "orthogonal", "centre", "adalora"}))
def test_packed_rows_make_the_same_step(term):
    assert_same(one_step(term, 6, 2, packed=True), whole(term))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes found, by how many micro-batches each of them had and the term."""
    out = tmp_path_factory.mktemp("cut") / "found.pt"
    code, text = finish(torchrun(str(out), program=("-m", "tests.training.cut_steps")))
    assert code == 0, text
    return torch.load(out)


@pytest.mark.distributed
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("term", TERMS)
def test_two_processes_make_the_same_step(term, accumulation, two_processes):
    assert_same(two_processes[accumulation][term], whole(term))
