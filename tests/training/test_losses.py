"""What every routing loss has in common: pads count for nothing, precision is kept, gradients reach real tokens."""

import pytest
import torch

from tests.training.helpers import over_examples, over_tokens
from topiclora_cli.training.losses import (
    distribution_and_entropy,
    expert_activity,
    generalised_js,
    importance,
    local_balance,
    normal_profile,
    poisson_profile,
    probabilities,
    sparsity,
    switch_balance,
    z_loss,
)

MASK = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
PADS = MASK == 0

# Each as a function of logits and mask, with gates that are the whole softmax where that has a gradient.
LOSSES = {
    "switch": lambda x, mask: switch_balance(
        over_tokens(expert_activity(x >= x.amax(-1, keepdim=True), probabilities(x)), mask)
    ),
    "local": lambda x, mask: local_balance(
        over_examples(
            importance(x.softmax(-1), mask=mask, types=torch.tensor([True, False])[: len(x)], delta=0.3),
        )
    ),
    "normal": lambda x, mask: normal_profile(over_tokens(probabilities(x), mask)),
    "z": lambda x, mask: over_tokens(z_loss(x), mask),
    "gjs": lambda x, mask: generalised_js(
        over_tokens(distribution_and_entropy(x, certainty=0.0), mask), balance=1.0, certainty=0.0
    ),
    "poisson": lambda x, mask: over_tokens(poisson_profile(x), mask),
    "sparsity": lambda x, mask: over_tokens(sparsity(x.softmax(-1), target=1), mask),
}


@pytest.fixture(params=LOSSES)
def loss(request):
    return lambda logits, mask=MASK: LOSSES[request.param](logits, mask)


def logits(experts=4, dtype=torch.float32):
    return torch.randn(2, 4, experts, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_pads_change_nothing_and_get_no_gradient(loss):
    some = logits().requires_grad_()
    others = torch.where(PADS.unsqueeze(-1), 5 * some.flip(-1), some)
    value = loss(some)
    torch.testing.assert_close(loss(others), value)
    value.backward()
    assert some.grad[PADS].abs().max() == 0
    assert some.grad[~PADS].abs().sum(-1).min() > 1e-6


def test_masks_of_any_type(loss):
    for mask in (MASK.bool(), MASK.float()):
        torch.testing.assert_close(loss(logits(), mask), loss(logits()))


def test_precision(loss):
    assert loss(logits(dtype=torch.float64)).dtype == torch.float64
    assert loss(logits(dtype=torch.bfloat16)).dtype == torch.float32


def test_one_expert(loss):
    assert loss(logits(experts=1)).isfinite()
