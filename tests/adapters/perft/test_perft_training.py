"""One tester over the PERFT configurations: gradients, checkpointing, precision, copies."""

import copy
import io
import pickle

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.conftest import shaken
from topiclora_cli.adapters import PerftConfig, record_routing
from topiclora_cli.adapters.perft import PerftLayer

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [4, 4, 21, 17, 6, 11]])


def blocks(model):
    return [module for module in model.modules() if isinstance(module, PerftLayer)]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def logits(model, tokens=TOKENS, **inputs):
    return model(input_ids=tokens, **inputs).logits


def test_only_adapter_parameters_train_and_all_of_them_do(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings)).train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("perft_" in name for name in trainable)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    silent = {name for name, p in trainable.items() if p.grad is None or not p.grad.any()}
    # Weights that are the pretrained router's leave the own one to its balance loss, as in the authors' code on OLMoE.
    own_router = {name for name in trainable if "perft_router" in name}
    assert silent == (own_router if settings.get("router_weight_source") == "pretrained" else set())
    with record_routing() as record:
        model(input_ids=TOKENS)
    if record.logits:
        sum(u.softmax(-1).square().sum() for u in record.logits.values()).backward()
        assert all(trainable[name].grad.any() for name in own_router)


def test_checkpointing_leaves_gradients_and_recorded_routing_unchanged(settings, moe_model, beside):
    if settings.get("lora_dropout"):
        pytest.skip("dropout draws anew")
    model, seen = shaken(beside(moe_model(), **settings)).train(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        with record_routing() as record:
            loss = model(input_ids=TOKENS, labels=TOKENS).loss
        entropy = sum((u.softmax(-1) * u.log_softmax(-1)).sum() for u in record.logits.values())
        (loss + entropy).backward()
        assert not any(block.base_routing and block.base_routing._noted for block in blocks(model))
        seen.append((gradients(model), record))
    (plain, recorded), (again, recorded_again) = seen
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-5, rtol=1e-4)
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
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


def test_bfloat16_base_keeps_a_float32_adapter(settings, moe_dir):
    base = AutoModelForCausalLM.from_pretrained(moe_dir, dtype=torch.bfloat16)
    model = shaken(get_peft_model(base, PerftConfig(**{"r": 2, "task_type": "CAUSAL_LM", **settings})))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def interrupt(*_):
    raise RuntimeError("interrupted")


def test_copies_of_every_kind_are_whole_and_independent(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    expected = logits(model)
    for block in blocks(model):  # half-way, behind the base's decision
        stop = block.get_base_layer().register_forward_hook(interrupt)
        with pytest.raises(RuntimeError, match="interrupted"):
            model(input_ids=TOKENS)
        stop.remove()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
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
