"""Fixed gates in a forward pass: every token meets them, gradients reach them, and routing is back afterwards."""

import pytest
import torch
from peft import get_peft_model

from tests.adapters.helpers import TOKENS, logits
from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.adapters.fixed import fixed_gates, router_owners
from topiclora_cli.errors import TopicLoraError

GATES = torch.tensor([0.4, 0.3, 0.2, 0.1])


def mixture(base, **settings):
    config = TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj", "k_proj", "down_proj"], **settings)
    return shaken(get_peft_model(base, config))


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 2},
        {"top_k": 2, "kernel": "sparse", "r": 4},
        {"top_k": 1, "router_scope": "group"},
        {"granularity": "prompt", "router": "linear"},
        {"router": "threshold"},
        {"shared_experts": 1},
    ],
    ids=str,
)
def test_all_experts_take_part_in_every_token(settings, tiny_model):
    config = TopicLoraConfig(num_experts=4, target_modules=["q_proj", "k_proj", "down_proj"], **{"r": 2, **settings})
    model = shaken(get_peft_model(tiny_model, config))
    routed, owners = logits(model), router_owners(model, "default")
    with fixed_gates(model, "default", dict.fromkeys(owners, GATES)), record_routing(model) as record:
        fixed = logits(model)
    for gates in record.gates.values():
        assert torch.equal(gates, GATES.expand_as(gates))
    assert not torch.allclose(fixed, routed, atol=1e-4)
    assert torch.equal(logits(model), routed)


def test_gradients_reach_the_gates_and_unnamed_routers_choose_as_ever(tiny_model):
    model = mixture(tiny_model, top_k=2)
    name = sorted(router_owners(model, "default"))[0]
    gates = GATES.clone().requires_grad_()
    with fixed_gates(model, "default", {name: gates}), record_routing(model) as record:
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert gates.grad.abs().min() > 0
    assert {other for other, seen in record.gates.items() if (seen > 0).all()} == {name}


def test_a_wrong_number_of_gates_is_refused(tiny_model):
    model = mixture(tiny_model)
    few = dict.fromkeys(router_owners(model, "default"), GATES[:3])
    with (
        pytest.raises(TopicLoraError, match=r"takes 4 gates, and \(3,\) were given"),
        fixed_gates(model, "default", few),
    ):
        pass
