"""What routed layers share while they run is their model's own: another model, copy or block does not disturb it."""

import copy
from contextlib import ExitStack

import pytest
import torch
from peft import get_peft_model

from tests.adapters.helpers import TOKENS, assert_same_gradients, copies_of, gradients, logits
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig, forced_routing, prompt_tokens, record_routing
from topiclora_cli.adapters.tuner import contexts_of

PROMPT = torch.arange(6).expand(2, -1) < 4
PRIOR = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(2, 6, 4)
ETA = torch.full((2, 6), 0.9)


@pytest.fixture
def model(family_model, adapted, shaken):
    return shaken(adapted(family_model("llama", num_hidden_layers=1), granularity="prompt", router_scope="block"))


@pytest.fixture
def other(model, shaken):
    """As a policy has its reference."""
    return shaken(copy.deepcopy(model), seed=1)


def test_what_is_said_of_a_model_is_not_heard_by_another(model, other):
    plain, reference = logits(model), logits(other)
    with prompt_tokens(PROMPT, model):
        assert not torch.equal(logits(model), plain)
        assert torch.equal(logits(other), reference)
    with prompt_tokens(PROMPT):
        told_of_any = logits(other)
    with forced_routing(model, PRIOR, ETA):
        assert not torch.equal(logits(model), plain)
        assert torch.equal(logits(other), reference)
    with prompt_tokens(PROMPT), prompt_tokens(torch.ones(2, 6), other):
        assert torch.equal(logits(other), reference)
    assert not torch.equal(told_of_any, reference)


def test_a_model_may_run_between_the_layers_of_another(model, other):
    expected, reference, found = logits(model), logits(other), []
    between = model.get_base_model().model.layers[0].self_attn.k_proj
    hook = between.register_forward_pre_hook(lambda *_: found.append(logits(other)))
    with record_routing(model) as record:
        assert torch.equal(logits(model), expected)
    hook.remove()
    assert torch.equal(found[0], reference)
    assert all(name.startswith("model.layers.0") for name in record.gates)


def test_records_may_end_in_any_order(model):
    with ExitStack() as first, ExitStack() as second:
        one = first.enter_context(record_routing(model))
        two = second.enter_context(record_routing(model))
        first.close()
        logits(model)
    logits(model, TOKENS + 1)
    assert not one.logits
    with record_routing(model) as alone:
        logits(model)
    for name, recorded in alone.logits.items():
        assert torch.equal(two.logits[name], recorded)


def test_copies_start_empty_and_share_nothing(model):
    plain = logits(model)
    with record_routing(model) as record, prompt_tokens(PROMPT, model):
        twins = copies_of(model)
        for twin in twins:
            assert torch.equal(logits(twin), plain)
    assert not record.gates
    contexts = [contexts_of(each) for each in (model, *twins)]
    assert {len(found) for found in contexts} == {1}  # of all layers of each
    assert len({context for found in contexts for context in found}) == len(contexts)


def test_every_adapter_of_a_model_has_the_same_context(family_model, shaken, tmp_path):
    config = TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(family_model("olmoe"), config)
    model.save_pretrained(tmp_path / "one")
    get_peft_model(family_model("olmoe"), PerftConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(tmp_path / "two")
    base = family_model("olmoe")
    for name in ("one", "two"):
        base.load_adapter(str(tmp_path / name), adapter_name=name)  # each by a tuner that is thrown away
    assert len(contexts_of(base)) == 1
    assert contexts_of(model) == (model.routing_context,)


def test_a_base_adapted_anew_forces_its_new_routers_under_checkpointing(family_model, adapted, shaken):
    settings = {"top_k": 2, "target_modules": ["q_proj"]}
    base = adapted(family_model("llama"), **settings)
    base.gradient_checkpointing_enable({"use_reentrant": False})
    with forced_routing(base.train(), PRIOR, ETA):
        base(input_ids=TOKENS)
    again = shaken(adapted(base.unload(), **settings)).train()
    again.enable_input_require_grads()
    fresh = shaken(adapted(family_model("llama"), **settings)).train()
    for each in (fresh, again):
        with forced_routing(each, PRIOR, ETA):
            loss = each(input_ids=TOKENS, labels=TOKENS).loss
        loss.backward()
    assert_same_gradients(gradients(again), gradients(fresh))
