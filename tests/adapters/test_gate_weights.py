"""What the chosen experts weigh: renormalised, by their probability, or each the same."""

import pytest
import torch

from tests.adapters.test_kernels import D_IN, KERNELS, E, assert_near, expert, layer, outcome
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.routers import HierarchicalRouter, RouterSettings, no_pooling
from topiclora_cli.adapters.selection import select_experts
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.scaling import GATE_WEIGHTS


def naive_gates(logits, top_k, kind):
    """Token by token and expert by expert."""
    rows = []
    for row in logits.flatten(0, -2):
        share = row.softmax(-1)
        kept = row.argsort(descending=True)[:top_k].tolist()
        gates = [row.new_zeros(())] * len(row)
        for e in kept:
            if kind == "constant":
                gates[e] = share[e] + (1 / top_k - share[e]).detach()
            elif kind == "probability" or top_k == 1:
                gates[e] = share[e]
            else:
                gates[e] = share[e] / sum(share[other] for other in kept)
        rows.append(torch.stack(gates))
    return torch.stack(rows).view(logits.shape)


@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
@pytest.mark.parametrize("top_k", [1, 2, E])
@pytest.mark.parametrize("kind", GATE_WEIGHTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_equals_a_loop(kernel, kind, top_k, shared_a):
    mixture = layer(kernel, top_k=top_k, gate_weights=kind, shared_a=shared_a, scaling="total")

    def naive(x):
        gates = naive_gates(x @ mixture.topiclora_router["default"].weight.T, top_k, kind)
        return mixture.base_layer(x) + sum(gates[..., e, None] * expert(mixture, e, x) for e in range(E))

    x = torch.randn(2, 3, D_IN, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert_near(outcome(mixture, mixture, x), outcome(naive, mixture, x), 1e-10)


@pytest.mark.parametrize("top_k", [1, 2, 3, 7])
def test_constant_gates_are_exactly_equal_and_learn_as_probabilities(top_k):
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gates = select_experts(logits, top_k=top_k, gate_weights="constant")
    kept = gates > 0
    assert (kept.sum(-1) == top_k).all()
    assert torch.equal(gates[kept], torch.full((50 * top_k,), 1 / top_k))
    weight = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((gates * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * kept * weight).sum(), logits)
    torch.testing.assert_close(gradient, expected)


def test_hmoras_router_heeds_them():
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    gates = {}
    for kind in GATE_WEIGHTS:
        torch.manual_seed(0)
        router = HierarchicalRouter(RouterSettings(6, 4, top_k=2, gate_weights=kind, depth=0.5))
        decision = router(x, no_pooling)
        gates[kind] = decision.gates
        if kind == "probability":
            torch.testing.assert_close(gates[kind][gates[kind] > 0], decision.logits.softmax(-1)[gates[kind] > 0])
    assert torch.equal(gates["constant"][gates["constant"] > 0], torch.full((10,), 0.5))
    torch.testing.assert_close(gates["renormalised"].sum(-1), torch.ones(5))
    assert (gates["probability"].sum(-1) < 1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate_weights": "constant"}, "there is no top_k.*Set top_k"),
        ({"gate_weights": "probability", "top_p": 0.5}, "there is no top_k"),
        ({"gate_weights": "constnt", "top_k": 2}, "gate_weights 'constnt' is unknown.*constant"),
        ({"gate_weights": "constant", "router": "uniform"}, "there is no top_k"),
        (
            {"gate_weights": "constant", "top_k": 2, "shared_experts": 1, "shared_gate": "softmax"},
            "means nothing to shared_gate: softmax",
        ),
    ],
)
def test_a_configuration_refuses_what_means_nothing(settings, message):
    with pytest.raises(TopicLoraError, match=message):
        TopicLoraConfig(target_modules=["q_proj"], **settings)


def recipe(adapter, **loss):
    return build_recipe({"name": "x", "model": {"name": "m"}, "adapter": adapter, "loss": loss}, where="here")


@pytest.mark.parametrize(
    "adapter",
    [
        {"top_k": None, "gate_weights": "probability"},
        {"top_p": 0.5, "gate_weights": "constant"},
        {"method": "adamole", "gate_weights": "constant"},
        {"method": "ldmole", "gate_weights": "probability"},
        {"router": "uniform", "gate_weights": "constant"},
        {"shared_experts": 2, "shared_gate": "softmax", "gate_weights": "constant"},
        {"method": "perft-r", "gate_weights": "constant"},
        {"method": "lora", "gate_weights": "constant"},
    ],
    ids=str,
)
def test_a_recipe_names_the_key_where_nothing_reads_it(adapter):
    with pytest.raises(TopicLoraError, match=r"adapter\.gate_weights means nothing .*Leave adapter\.gate_weights out"):
        recipe(adapter)


def test_constant_gates_need_a_loss_that_tells_the_routers_where_to_send_what():
    for loss in ({"kl": {"weight": 0.0}}, {"kl": {"weight": 0.0}, "z": {"weight": 0.1}}):
        with pytest.raises(TopicLoraError, match=r"leaves the routers nothing to learn from.*loss\.kl\.weight"):
            recipe({"gate_weights": "constant"}, **loss)
    assert recipe({"gate_weights": "constant"}).loss.kl.weight > 0
    assert (
        recipe({"method": "mola", "gate_weights": "constant"}, balance={"weight": 0.01}).adapter.gate_weights
        == "constant"
    )
    with pytest.raises(TopicLoraError, match="nothing to learn from"):
        recipe({"method": "mola", "gate_weights": "constant"})
