"""One tester over the PERFT configurations: gradients, checkpointing, precision, copies."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import (
    TOKENS,
    assert_same_gradients,
    copies_of,
    gradients,
    interrupted,
    logits,
    without_and_with_checkpointing,
)
from tests.conftest import shaken
from topiclora_cli.adapters import PerftConfig, record_routing
from topiclora_cli.adapters.perft import PerftLayer


def blocks(model):
    return [module for module in model.modules() if isinstance(module, PerftLayer)]


def test_only_adapter_parameters_train_and_all_of_them_do(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings)).train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("perft_" in name for name in trainable)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    silent = {name for name, p in trainable.items() if p.grad is None or not p.grad.any()}
    assert not silent
    if settings.get("router_weight_source") == "pretrained":
        assert not any("perft_router" in name for name in trainable)


def test_a_balance_loss_trains_a_router_whose_weights_are_the_pretrained_ones(moe_model, beside):
    """As in the authors' code on OLMoE."""
    settings = {"router_weight_source": "pretrained", "top_k": 3, "train_router": True}
    model = shaken(beside(moe_model(), **settings)).train()
    routers = {name: p for name, p in model.named_parameters() if "perft_router" in name}
    assert all(parameter.requires_grad for parameter in routers.values())
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in routers.values())
    with record_routing(model) as record:
        model(input_ids=TOKENS)
    sum(u.softmax(-1).square().sum() for u in record.logits.values()).backward()
    assert all(parameter.grad.any() for parameter in routers.values())


def test_checkpointing_leaves_gradients_and_recorded_routing_unchanged(settings, moe_model, beside):
    if settings.get("lora_dropout"):
        pytest.skip("dropout draws anew")
    model, seen = shaken(beside(moe_model(), **settings)).train(), []
    for outcome in without_and_with_checkpointing(model):
        assert not any(block.base_routing and block.base_routing._noted.get() for block in blocks(model))
        seen.append(outcome)
    (plain, recorded), (again, recorded_again) = seen
    assert_same_gradients(again, plain)
    for kind in ("logits", "gates"):
        first, second = getattr(recorded, kind), getattr(recorded_again, kind)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_two_forward_passes_before_one_backward(settings, moe_model, beside):
    if settings.get("lora_dropout"):
        pytest.skip("dropout draws anew")
    model = shaken(beside(moe_model(), **settings)).train()
    batches = [TOKENS, TOKENS[:1, :3]]
    for batch in batches:
        model(input_ids=batch, labels=batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    losses = [model(input_ids=batch, labels=batch).loss for batch in batches]
    logits(model, TOKENS[:, 2:])
    sum(losses).backward()
    assert_same_gradients(gradients(model), expected)


def test_bfloat16_base_keeps_a_float32_adapter(settings, moe_dir):
    base = AutoModelForCausalLM.from_pretrained(moe_dir, dtype=torch.bfloat16)
    model = shaken(get_peft_model(base, PerftConfig(**{"r": 2, "task_type": "CAUSAL_LM", **settings})))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def test_copies_of_every_kind_are_whole_and_independent(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    expected = logits(model)
    for block in blocks(model):  # half-way, behind the base's decision
        interrupted(model, block.get_base_layer().register_forward_hook)
    copies = copies_of(model)
    for duplicate in copies:
        logits(model, TOKENS.flip(1))  # leaves nothing behind that a copy would use
        assert torch.equal(logits(duplicate.eval()), expected)
        shaken(duplicate, seed=5)
        assert torch.equal(logits(model), expected)
        assert torch.equal(logits(duplicate.unload()), logits(moe_model()))
    assert torch.equal(logits(model), expected)


def test_dropout_acts_in_training_only(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    expected = logits(model)
    assert torch.equal(logits(model.train()), expected) != bool(settings.get("lora_dropout"))
    assert torch.equal(logits(model.eval()), expected)
