"""A base that is lent is to the bit what was loaded, whatever the borrowers before did to theirs."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.lent import Lender
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.held import holding
from topiclora_cli.stages import inputs
from topiclora_cli.stages.inputs import open_base


@pytest.fixture
def lender(tiny_model, tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    return Lender(BaseModel(tiny_model.requires_grad_(False), tokenizer, str(tiny_model_dir)))


def logits(model):
    with torch.no_grad():
        return model(torch.arange(8)[None]).logits


def test_borrowers_share_the_weights_and_nothing_else(lender, tiny_model):
    one, other = lender.lend(), lender.lend()
    for (name, mine), theirs in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert mine.data_ptr() == theirs.data_ptr(), name
        assert not mine.requires_grad
    assert one.model.lm_head is not other.model.lm_head
    one.model.config.use_cache = False
    one.tokenizer.padding_side = "left"
    one.model.train()
    assert other.model.config.use_cache
    assert not other.model.training
    assert lender.lend().tokenizer.padding_side == other.tokenizer.padding_side
    assert torch.equal(logits(lender.lend().model), logits(tiny_model))


def test_an_adapter_goes_with_its_borrower(lender, tiny_model):
    before = logits(tiny_model)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, modules_to_save=["lm_head"])
    adapted = get_peft_model(lender.lend().model, config)
    adapted(torch.arange(8)[None]).logits.sum().backward()
    assert not torch.equal(logits(adapted), before)
    assert lender.pristine()
    again = lender.lend().model
    assert not [name for name, _ in again.named_modules() if "lora" in name]
    assert torch.equal(logits(again), before)


def test_a_changed_weight_is_seen(lender):
    weight = lender.lend().model.lm_head.weight
    assert lender.pristine()
    weight.data[0, 0] += 1e-7
    assert not lender.pristine()


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_that_move_the_base_leave_no_trace(start, tiny_recipe, monkeypatch):
    recipe = load_recipe(str(tiny_recipe))
    loaded = []
    whole = inputs._open_base
    monkeypatch.setattr(inputs, "_open_base", lambda *args, **options: loaded.append(1) or whole(*args, **options))
    with holding():
        before = logits(open_base(recipe).model)
        get_peft_model(open_base(recipe).model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=start))
        assert torch.equal(logits(open_base(recipe).model), before)
        assert len(loaded) <= 2
    open_base(recipe)
    open_base(recipe)
    assert len(loaded) in (3, 4)
