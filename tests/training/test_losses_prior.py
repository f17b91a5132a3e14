"""The dual loss against numbers worked out by hand."""

import math

import pytest
import torch

from topiclora_cli.training.losses import (
    kl_weight_at,
    normalised_entropy,
    pooled_probabilities,
    prior_distance,
    target,
)

DIRECTIONS = ["forward", "reverse", "js"]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
def test_a_smoothed_prior_is_the_mean_with_an_even_one(direction):
    pooled, prior = torch.tensor([[[0.5, 0.3, 0.2]]]), torch.tensor([[0.9, 0.1, 0.0]])
    smoothed = prior_distance(pooled, prior=prior, smoothing=0.4, direction=direction)
    by_hand = torch.tensor([[0.6 * p + 0.4 / 3 for p in (0.9, 0.1, 0.0)]])
    torch.testing.assert_close(smoothed, prior_distance(pooled, prior=by_hand, direction=direction))
    assert prior_distance(torch.full((1, 1, 3), 1 / 3), prior=prior, smoothing=1.0, direction=direction).abs() < 1e-6


def test_pooling_ignores_masked_tokens():
    logits = torch.randn(2, 3, 4)
    mask = torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    pooled = pooled_probabilities(logits, mask=mask)
    p = logits.softmax(-1)
    torch.testing.assert_close(pooled, torch.stack([(p[0, 0] + p[0, 1]) / 2, p[1, 2]]))


def test_kl_by_hand():
    pooled = torch.tensor([[[0.5, 0.5]], [[0.8, 0.2]]])  # two layers, one example
    prior = torch.tensor([[0.9, 0.1]])
    forward = (kl((0.9, 0.1), (0.5, 0.5)) + kl((0.9, 0.1), (0.8, 0.2))) / 2
    reverse = (kl((0.5, 0.5), (0.9, 0.1)) + kl((0.8, 0.2), (0.9, 0.1))) / 2
    assert prior_distance(pooled, prior=prior).item() == pytest.approx(forward, rel=1e-5)
    assert prior_distance(pooled, prior=prior, direction="reverse").item() == pytest.approx(reverse, rel=1e-5)


def test_js_by_hand_and_at_its_bound():
    p, q = (0.9, 0.1), (0.3, 0.7)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    expected = (kl(p, middle) + kl(q, middle)) / 2
    one, other = torch.tensor([p]), torch.tensor([q])
    assert prior_distance(other[None], prior=one, direction="js").item() == pytest.approx(expected, rel=1e-5)
    assert prior_distance(one[None], prior=other, direction="js").item() == pytest.approx(expected, rel=1e-5)
    apart = torch.eye(2)
    at_most = prior_distance(apart[None], prior=apart.flip(0), direction="js")
    torch.testing.assert_close(at_most, torch.full((2,), math.log(2)))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_zero_at_the_prior_for_any_temperature_and_never_negative(direction):
    prior = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    for temperature in (0.5, 1.0, 4.0):
        options = {"prior": prior, "temperature": temperature, "direction": direction}
        assert prior_distance(prior[None], **options).abs().max() < 1e-6
        assert prior_distance(prior.flip(0)[None], **options).min() > 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_kl_reaches_every_logit_and_pulls_towards_the_prior(direction):
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    pooled = pooled_probabilities(logits, mask=torch.ones(1, 2))
    prior_distance(pooled[None], prior=torch.tensor([[0.8, 0.1, 0.1]]), direction=direction).backward()
    gradient = logits.grad[0, 0]
    assert gradient[0] < 0
    assert (gradient[1:] > 0).all()


def test_unknown_direction():
    with pytest.raises(ValueError, match="sideways"):
        prior_distance(torch.ones(1, 1, 1), prior=torch.ones(1, 1), direction="sideways")


def test_entropy_bounds():
    assert normalised_entropy(torch.full((3, 8), 1 / 8)).tolist() == pytest.approx([1] * 3)
    assert normalised_entropy(torch.eye(8)).tolist() == pytest.approx([0] * 8, abs=1e-6)
    assert normalised_entropy(torch.ones(3, 1)).tolist() == [0, 0, 0]


def test_weight_schedule():
    at = [kl_weight_at(p, peak=0.1, floor=0.01, warmup=0.1) for p in (0, 0.05, 0.1, 0.55, 1)]
    assert at == pytest.approx([0, 0.05, 0.1, 0.055, 0.01])
    assert kl_weight_at(0.5, peak=0.0, floor=0.01, warmup=0.0) == 0


def test_a_hard_label_is_the_likeliest_expert_alone_however_sure_the_prior_is():
    prior = torch.tensor([[0.4, 0.35, 0.25]])
    pooled = torch.tensor([[[0.2, 0.5, 0.3]]])
    hard = prior_distance(pooled, prior=prior, label="hard")
    assert hard.item() == pytest.approx(-math.log(0.2), abs=1e-5)
    torch.testing.assert_close(target(prior, label="hard", smoothing=0.3), torch.tensor([[0.8, 0.1, 0.1]]))
    torch.testing.assert_close(target(prior, label="soft", smoothing=0.0), prior)
