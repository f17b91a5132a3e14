"""Which numbers `auto` computes in, and a head that is rounded once."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from topiclora_cli.models.precision import rounded_head, store_weights_in_bfloat16, use_bfloat16

SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 4},
}


def made(**options):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **options)).eval().requires_grad_(False)
    store_weights_in_bfloat16(model)
    return model


@pytest.mark.parametrize(
    ("has", "bfloat16"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9R14"}, True),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, True),
        ({"avx512_bf16": True}, True),
        ({"avx512_f": True, "cpu_name": "AMD EPYC 7763"}, False),
        ({}, False),
    ],
)
def test_auto_is_bfloat16_where_the_processor_is_faster_with_it(has, bfloat16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert use_bfloat16("auto") is bfloat16
    assert use_bfloat16("bfloat16") is True
    assert use_bfloat16("float32") is False


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: get_peft_model(model, LoraConfig())])
def test_a_tied_head_is_rounded_in_the_block_and_its_results_are_the_same(wrap):
    base = made(tie_word_embeddings=True)
    model, ids = wrap(base), torch.arange(12).view(2, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = model(input_ids=ids).logits
        with rounded_head(model, bfloat16=True):
            assert base.lm_head.weight.dtype == torch.bfloat16
            assert base.model.embed_tokens.weight.dtype == torch.float32
            inside = model(input_ids=ids).logits
    assert torch.equal(before, inside)
    assert base.lm_head.weight is base.model.embed_tokens.weight


def test_the_weights_come_back_where_the_block_fails():
    model = made(tie_word_embeddings=True)
    with pytest.raises(RuntimeError), rounded_head(model, bfloat16=True):
        raise RuntimeError
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_other_heads_stay_as_they_are():
    tied, trained, adapted = (made(tie_word_embeddings=True) for _ in range(3))
    trained.lm_head.weight.requires_grad_(True)
    adapted = get_peft_model(adapted, LoraConfig(target_modules=["lm_head"]))
    for model, bfloat16 in [(tied, False), (trained, True), (adapted, True), (made(), True)]:
        head = model.get_output_embeddings()
        weight = head.weight
        with rounded_head(model, bfloat16=bfloat16):
            assert head.weight is weight
