"""Terms on routing and on experts are about the routed experts alone."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS
from tests.conftest import shaken
from tests.training.test_terms import TERMS, terms_of
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.record import record_routing
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.step import Step

PRIOR = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])


@pytest.fixture
def pair(tiny_model, tiny_model_dir):
    """A function: settings -> a mixture with two shared experts that add nothing, and the same one without them."""

    def make(**settings):
        models = []
        for base, shared in ((tiny_model, 2), (AutoModelForCausalLM.from_pretrained(tiny_model_dir), 0)):
            config = TopicLoraConfig(
                r=2, num_experts=4, top_k=2, shared_experts=shared, target_modules=["q_proj", "down_proj"], **settings
            )
            models.append(shaken(get_peft_model(base, config)))
        ours, plain = ({n: p for n, p in model.named_parameters() if "topiclora" in n} for model in models)
        with torch.no_grad():
            for name, parameter in plain.items():
                ours[name][: len(parameter)].copy_(parameter)
                if "topiclora_B" in name:
                    ours[name][len(parameter) :] = 0
        return models

    return make


def terms(model, section):
    mask = torch.ones_like(TOKENS)
    with record_routing(model, inputs=True) as record:
        model(input_ids=TOKENS)
    return terms_of(Step(record, model, LossSection(**section), 0.5, mask, mask, PRIOR, torch.ones(2)))


@pytest.mark.parametrize(
    "settings",
    [{"train_keys": True}, {"router": "cosine", "shared_a": True}, {"router": "hierarchical"}],
    ids=["topic", "cosine", "hierarchical"],
)
def test_experts_for_every_token_have_no_part_in_any_term(settings, pair):
    section = {name: {"weight": 0.1} for name in TERMS}
    ours, plain = (terms(model, section) for model in pair(**settings))
    assert ours.keys() == plain.keys() >= {"kl", "balance", "contrast", "orthogonal", "local_balance", "z"}
    for name, (_, value) in plain.items():
        torch.testing.assert_close(ours[name][1], value, msg=name)


def test_in_the_softmax_the_prior_meets_the_routed_part_made_to_sum_to_one(tiny_model):
    config = TopicLoraConfig(r=2, num_experts=4, shared_experts=3, shared_gate="softmax", target_modules=["q_proj"])
    model = shaken(get_peft_model(tiny_model, config))
    mask = torch.ones_like(TOKENS)
    with record_routing(model) as record:
        model(input_ids=TOKENS)
    section = LossSection(kl={"weight": 1.0, "layers": "all"})
    _, kl = terms_of(Step(record, model, section, 0.5, mask, mask, PRIOR, torch.ones(2)))["kl"]
    by_layer = []
    for name, gates in record.gates.items():  # all are mixed, so that gates are the softmax itself
        assert (gates.sum(-1) < 0.99).all(), name
        pooled = (gates / gates.sum(-1, keepdim=True)).mean(1)
        by_layer.append((PRIOR * (PRIOR / pooled).log()).sum(-1))
    torch.testing.assert_close(kl, torch.stack(by_layer).mean())
