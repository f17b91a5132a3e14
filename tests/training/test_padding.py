"""Models that take padding for text are known, and never given any; tokens that a model does not embed are refused."""

import dataclasses
import warnings

import pytest
import torch
from transformers import (
    AutoTokenizer,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from topiclora_cli.data import Encoded, Row
from topiclora_cli.data.vocabulary import refuse_unknown_tokens
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.train import TrainSection
from topiclora_cli.stages.inputs import make_batches, open_base
from topiclora_cli.training.padding import masks_padding, refuse_padding

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
MODELS = {
    "gpt2": (True, lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))),
    "alibi": (True, lambda: FalconForCausalLM(FalconConfig(**SMALL, num_attention_heads=4, alibi=True))),
    "mamba": (True, lambda: MambaForCausalLM(MambaConfig(**SMALL, state_size=8))),
    "rwkv": (False, lambda: RwkvForCausalLM(RwkvConfig(**SMALL, attention_hidden_size=32, context_length=64))),
}


@pytest.mark.parametrize(("expected", "make"), MODELS.values(), ids=list(MODELS))
def test_models_that_read_padding_are_told_from_those_that_do_not(expected, make):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert masks_padding(make().eval()) is expected


@pytest.fixture
def base(tiny_recipe):
    return open_base(load_recipe(str(tiny_recipe), []))


def test_a_model_that_reads_padding_gets_none(base):
    assert base.masks_padding
    recurrent = dataclasses.replace(base, masks_padding=False)
    refuse_padding(base, TrainSection(batch_size=4))
    for train in (TrainSection(batch_size=1, gradient_accumulation=4), TrainSection(batch_size=4, packing=True)):
        refuse_padding(recurrent, train)
    with pytest.raises(TopicLoraError, match=r"LlamaForCausalLM takes no notice.*batch_size=1, .*accumulation=8"):
        refuse_padding(recurrent, TrainSection(batch_size=4, gradient_accumulation=2))
    encoded = [Encoded(Row("", ""), [5] * length, 1) for length in (3, 5, 4)]
    assert [len(batch["input_ids"]) for batch in make_batches(base, encoded)] == [3]
    assert all(batch["attention_mask"].all() for batch in make_batches(recurrent, encoded))


def test_tokens_without_an_embedding_are_refused(base, tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    size = len(tokenizer)
    refuse_unknown_tokens([[size - 1]], tokenizer, size)
    with pytest.raises(TopicLoraError, match=rf"makes token {size - 1} .*embeds {size - 1} tokens only"):
        refuse_unknown_tokens([[3], [size - 1, 4]], tokenizer, size - 1)
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    with pytest.raises(TopicLoraError, match=rf"makes token {size} \('<padding>'\)"):
        refuse_unknown_tokens([[3]], tokenizer, size)
