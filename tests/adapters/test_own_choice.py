"""Routers that choose for themselves how many experts take part: one function in every kernel, no top_k or top_p."""

import pytest
import torch

from tests.adapters.helpers import TOKENS, assert_decoding_equals_the_full_forward, logits
from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.adapters.counting import count_parameters
from topiclora_cli.adapters.routers import ROUTERS
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.recipe.meaning import CHOOSE_THEMSELVES

LONG = torch.randint(3, 64, (1, 40), generator=torch.Generator().manual_seed(1))  # enough rows to be sorted


def test_the_recipe_and_the_routers_agree_on_who_they_are():
    assert {name for name, kind in ROUTERS.items() if kind.chooses_itself} == set(CHOOSE_THEMSELVES)


@pytest.mark.parametrize("choice", [{"top_k": 2}, {"top_p": 0.5}], ids=str)
@pytest.mark.parametrize("router", CHOOSE_THEMSELVES)
def test_a_choice_from_outside_is_refused(router, choice):
    key = next(iter(choice))
    with pytest.raises(TopicLoraError, match=f"{key} means nothing to the {router} router"):
        TopicLoraConfig(router=router, **choice)
    values = {"name": "x", "model": {"name": "x"}, "adapter": {"method": "molora", "router": router, **choice}}
    with pytest.raises(TopicLoraError, match=f"{key} means nothing to the {router} router.*Leave adapter.{key} out"):
        build_recipe(values, where="x")


@pytest.mark.parametrize("method", ["adamole", "ldmole"])
def test_the_methods_with_such_routers_refuse_it_too(method):
    values = {"name": "x", "model": {"name": "x"}, "adapter": {"method": method}}
    assert build_recipe(values, where="x").adapter.top_k is None
    with pytest.raises(TopicLoraError, match="top_k means nothing"):
        build_recipe({**values, "adapter": {"method": method, "top_k": 2}}, where="x")


@pytest.mark.parametrize("router", CHOOSE_THEMSELVES)
def test_every_kernel_is_the_same_function(router, family_model, adapted, shaken):
    settings = {"router": router, "num_experts": 32, "r": 8}
    seen = [
        logits(shaken(adapted(family_model("llama"), kernel=kernel, **settings)).double(), LONG)
        for kernel in ("plain", "dense", "sparse", "auto")
    ]
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0])


@pytest.mark.parametrize("router", CHOOSE_THEMSELVES)
def test_a_step_of_decoding_is_the_same_function(router, family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama"), router=router, num_experts=32, r=8)).double()
    torch.testing.assert_close(logits(model, LONG)[:, :20], logits(model, LONG[:, :20]))
    assert_decoding_equals_the_full_forward(model, logits(model)[:, 4:])


@pytest.mark.parametrize("router", CHOOSE_THEMSELVES)
def test_all_experts_count_as_activated(router, family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama"), router=router, num_experts=8))
    total, activated = count_parameters(model)
    assert activated == total
    with record_routing(model) as record:
        logits(model, TOKENS)
    active = torch.stack([(gates > 0).sum(-1).float().mean() for gates in record.gates.values()])
    assert active.max() > 2
