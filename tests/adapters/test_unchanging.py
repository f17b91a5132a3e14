"""In a block in which weights do not change, what a pass makes of them is made once, and no digit changes for it."""

import pytest
import torch
from peft import get_peft_model

from tests.adapters.helpers import TOKENS, logits
from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, interfered_routing, record_routing, unchanging_weights
from topiclora_cli.adapters.context import RoutingContext
from topiclora_cli.adapters.fixed import fixed_gates, router_owners
from topiclora_cli.adapters.interference import SwitchedOff
from topiclora_cli.adapters.routers import TopicRouter
from topiclora_cli.models.precision import store_weights_in_bfloat16

KINDS = [
    {"top_k": 2},
    {"top_k": 1, "router": "linear", "shared_experts": 1},
    {"top_k": 2, "shared_experts": 1, "shared_gate": "softmax"},
    {"top_p": 0.6, "router": "linear", "router_scope": "layer"},
    {"router": "cosine", "shared_a": True},
    {"router": "hierarchical", "granularity": "prompt"},
    {"router": "threshold"},
    {"top_k": 2, "init": "svd", "r": 2},
    {"top_k": 2, "mixing": "ffn", "router_scope": "block"},
    {"top_k": 1, "kernel": "plain"},
]


def adapted(model, **settings):
    torch.manual_seed(0)
    config = TopicLoraConfig(
        **{"r": 4, "num_experts": 4, "task_type": "CAUSAL_LM", **settings}, target_modules="all-linear"
    )
    return shaken(get_peft_model(model, config))


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_no_digit_changes(settings, bfloat16, tiny_model):
    model = adapted(tiny_model, **settings)
    if bfloat16:
        store_weights_in_bfloat16(model.get_base_model())
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        before, shorter = logits(model), logits(model, TOKENS[:, :3])
        with unchanging_weights(model):
            for _ in range(2):
                assert torch.equal(logits(model), before)
            assert torch.equal(logits(model, TOKENS[:, :3]), shorter)


@pytest.fixture
def model(tiny_model):
    return adapted(tiny_model, top_k=2)


def test_keys_meet_the_routers_weights_once(model, monkeypatch):
    calls = []
    plain = TopicRouter.projection
    monkeypatch.setattr(TopicRouter, "projection", lambda self: calls.append(self) or plain(self))
    with unchanging_weights(model):
        logits(model)
        once = len(calls)
        with unchanging_weights(model):
            logits(model)
            logits(model)
    assert len(calls) == once


def test_generation_is_such_a_block(model, monkeypatch):
    before = model.generate(input_ids=TOKENS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    calls = []
    plain = TopicRouter.projection
    monkeypatch.setattr(TopicRouter, "projection", lambda self: calls.append(self) or plain(self))
    after = model.generate(input_ids=TOKENS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.equal(after, before)
    assert max(map(calls.count, calls)) <= 2


def test_weights_that_change_afterwards_count(model):
    with unchanging_weights(model):
        before = logits(model)
    shaken(model, seed=1)
    assert not torch.equal(logits(model), before)
    with unchanging_weights(model):
        assert not torch.equal(logits(model), before)


def test_gradients_are_those_of_the_weights_themselves(model):
    with unchanging_weights(model):
        logits(model)
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "topiclora_A" in name)


def test_what_is_done_to_an_adapter_inside_is_seen(model):
    owners = router_owners(model, "default")
    gates = {name: torch.tensor([0.0, 0.2, 0.3, 0.5]) for name in owners}
    with model.disable_adapter():
        off = logits(model)
    with interfered_routing(model, SwitchedOff(frozenset({0}))):
        without = logits(model)
    with fixed_gates(model, "default", gates):
        fixed = logits(model)
    with record_routing(model) as known:
        logits(model)
    with unchanging_weights(model):
        before = logits(model)
        with model.disable_adapter():
            assert torch.equal(logits(model), off)
        with interfered_routing(model, SwitchedOff(frozenset({0}))):
            assert torch.equal(logits(model), without)
        with fixed_gates(model, "default", gates):
            assert torch.equal(logits(model), fixed)
        with record_routing(model) as record:
            logits(model)
        assert torch.equal(logits(model), before)
    assert record.gates.keys() == known.gates.keys() == record.logits.keys()
    assert all(torch.equal(record.logits[name], known.logits[name]) for name in known.logits)


def test_another_adapter_has_what_is_its_own(model):
    model.add_adapter("other", TopicLoraConfig(r=2, num_experts=3, top_k=2, target_modules="all-linear"))
    shaken(model, seed=2)
    both = []
    for name in ("default", "other"):
        model.set_adapter(name)
        both.append(logits(model))
    with unchanging_weights(model):
        for name, expected in [*zip(("default", "other"), both, strict=True)] * 2:
            model.set_adapter(name)
            assert torch.equal(logits(model), expected)


def test_a_copy_of_a_model_holds_nothing(model):
    with unchanging_weights(model):
        logits(model)
        context: RoutingContext = model.base_model.routing_context
        assert context.here.held
    assert context.here.held is None
