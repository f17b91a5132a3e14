"""What is recorded of routing: of one model, of its layers inside the block, of one active adapter."""

import copy

import pytest
import torch

from tests.adapters.helpers import TOKENS, logits
from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.errors import TopicLoraError


@pytest.fixture
def model(family_model, adapted, shaken):
    return shaken(adapted(family_model("llama"), router="linear", target_modules=["q_proj"]))


def test_a_record_belongs_to_its_model(model, shaken):
    other = shaken(copy.deepcopy(model), seed=1)  # a policy and its reference
    with record_routing(model) as alone:
        logits(model)
    with record_routing(model) as ours, record_routing(other) as theirs:
        logits(model)
        logits(other)
    assert ours.logits.keys() == theirs.logits.keys() == alone.logits.keys()
    for name, recorded in alone.logits.items():
        assert torch.equal(ours.logits[name], recorded)
        assert not torch.equal(theirs.logits[name], recorded)
        assert torch.equal(ours.gates[name], alone.gates[name])


def test_replicas_of_a_model_leave_its_record_alone(model):
    layer = next(module for module in model.modules() if hasattr(module, "topiclora_router"))
    replica = layer._replicate_for_data_parallel()
    replica._modules = dict(layer._modules)
    with record_routing(model) as record:
        replica(torch.randn(1, 3, 32))
    assert not record.logits
    assert not record.gates


def test_several_active_adapters_are_not_recorded(model):
    model.add_adapter("second", TopicLoraConfig(r=2, num_experts=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(TopicLoraError, match="default, second"), record_routing(model):
        pass


def test_a_record_ends_with_its_block_even_if_that_breaks_off(model):
    with pytest.raises(RuntimeError), record_routing(model) as broken:
        raise RuntimeError
    logits(model, TOKENS)
    assert not broken.logits
