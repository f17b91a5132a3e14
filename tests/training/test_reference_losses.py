"""The auxiliary losses of published methods as their authors' code has them, written out for two routers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from topiclora_cli.adapters.record import RoutingRecord
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.training.step import Step
from topiclora_cli.training.terms import loss_terms
from topiclora_cli.training.token_terms import measure, whole_means
from topiclora_cli.training.whole_step import WholeStep

MASK = torch.tensor([[1, 1, 1], [0, 1, 1]])
REAL = MASK.bool()


def random(seed, experts=4):
    return torch.randn(2, 3, experts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(method, name, record):
    """Weight and value of a method's term on a record, in a step of one piece."""
    section = LossSection(**METHODS[method].values("loss"))
    whole = WholeStep(MASK.sum(), torch.tensor(2.0), 1, 1, {})
    step = Step(record, nn.Module(), section, 0.5, MASK, MASK)
    measured = measure(step, whole)
    weight, value = loss_terms(step, replace(whole, means=whole_means(measured)), measured)[name]
    return weight, value.item()


def both_routers(parts):
    """A record of two routers from what each of them had: one dict of tensors each."""
    record = RoutingRecord()
    for index, tensors in enumerate(parts):
        for name, tensor in tensors.items():
            getattr(record, name)[f"model.layers.{index}.q_proj"] = tensor
    return record


def top_two(logits):
    values, places = logits.topk(2)
    return torch.zeros_like(logits).scatter(-1, places, values.softmax(-1))


def test_adamole_adds_up_layers_counts_tokens_and_takes_signed_excesses():
    parts, expected = [], 0.0
    for seed in (0, 1):
        logits, threshold = random(seed), torch.rand(2, 3, 1, generator=torch.Generator().manual_seed(seed)) / 4
        excess = logits.softmax(-1) - threshold
        gates = excess.clamp_min(0) / excess.clamp_min(0).sum(-1, keepdim=True)
        parts.append({"logits": logits, "gates": gates, "excess": excess})
        chosen, score = (excess >= 0).double()[REAL].mean(0), excess[REAL].mean(0)
        assert excess.min() < 0
        expected += 4 * (chosen * score).sum().item()
    assert term("adamole", "balance", both_routers(parts)) == (1e-3, pytest.approx(expected))


@pytest.mark.parametrize("method", ["mixlora", "perft-r"])
def test_mixlora_and_perft_pool_layers_and_count_each_choice(method):
    logits = [random(seed) for seed in (0, 1)]
    record = both_routers([{"logits": router, "gates": top_two(router)} for router in logits])
    rows = torch.cat([router[REAL] for router in logits])
    choices = nn.functional.one_hot(rows.topk(2).indices, 4).double().mean(0)  # (slot, expert)
    expected = 4 * (choices * rows.softmax(-1).mean(0)).sum().item()
    assert term(method, "balance", record) == ({"mixlora": 1e-3, "perft-r": 1e-2}[method], pytest.approx(expected))
    even = torch.zeros(2, 3, 4)
    assert term(method, "balance", both_routers([{"logits": even, "gates": top_two(even)}]))[1] == pytest.approx(2)


def test_ldmole_multiplies_shares_of_all_activations_with_gates():
    parts, expected = [], 0.0
    for seed in (0, 1):
        gates = (random(seed).softmax(-1) - 0.2).clamp_min(0)
        gates = gates / gates.sum(-1, keepdim=True)
        parts.append({"logits": random(seed), "gates": gates})
        active = (gates[REAL] > 0).double().sum(0)
        expected += 4 * (active / active.sum() * gates[REAL].mean(0)).sum().item() / 2
    record = both_routers(parts)
    assert term("ldmole", "balance", record) == (1.0, pytest.approx(expected))
    assert LossSection(**METHODS["ldmole"].values("loss")).sparsity.weight == 0


def gjs(probabilities):
    limit = math.log(4)
    entropy = -(probabilities * probabilities.log()).sum(-1)
    mean = probabilities.mean(0)
    of_mean = min(-(mean * mean.log()).sum().item(), 0.98 * limit)
    return max(0.0, 0.48 * limit - (of_mean - entropy.clamp_min(0.5 * limit).mean().item())) / limit


def test_hmora_adds_up_token_and_task_routers_each_by_its_own_scores():
    low = {"logits": random(0), "gates": random(0), "token_logits": random(1)}
    middle = {"logits": random(2), "gates": random(2), "token_logits": random(3), "task_logits": 3 * random(4)}
    high = {"logits": random(5), "gates": random(5), "task_logits": 0.1 * random(6)}
    expected = [gjs(random(seed).softmax(-1)[REAL]) for seed in (1, 3)]
    expected += [gjs(logits[:, -1].softmax(-1)) for logits in (3 * random(4), 0.1 * random(6))]
    assert min(expected) > 0
    assert term("hmora", "gjs", both_routers([low, middle, high])) == (5e-3, pytest.approx(sum(expected)))


def test_loramoe_adds_up_layers_and_asks_for_even_use_alone():
    gates = [random(seed).softmax(-1) for seed in (0, 1)]
    expected = 0.0
    for router in gates:
        importance = (router * MASK.unsqueeze(-1)).sum(1)
        expected += (importance.var(correction=0) / importance.mean() ** 2).item()
    record = both_routers([{"logits": router.log(), "gates": router} for router in gates])
    assert term("loramoe", "local_balance", record) == (0.1, pytest.approx(expected))


def test_samora_adds_up_layers():
    assert METHODS["samora"].loss == {
        "orthogonal": {"weight": 1e-3},
        "centre": {"weight": 1e-2},
        "reduce_routers": "sum",
    }
