"""Which layers may share a router, and that several adapters keep their own."""

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from tests.adapters.helpers import TOKENS, interrupted, logits
from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.adapters.topiclora.scope import in_cross_attention
from topiclora_cli.errors import TopicLoraError

SIZES = {
    "t5": {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4},
    "bart": {
        **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
        **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 32},
    },
}


def seq2seq(family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=64, decoder_start_token_id=0, **SIZES[family])
    return AutoModelForSeq2SeqLM.from_config(config).eval()


def config(**settings):
    return TopicLoraConfig(**{"r": 2, "num_experts": 4, "router": "linear", "target_modules": "all-linear", **settings})


@pytest.mark.parametrize(("family", "scope"), [("t5", "block"), ("t5", "layer"), ("bart", "group"), ("bart", "layer")])
def test_cross_attention_shares_no_decision_with_what_reads_another_sequence(family, scope):
    with pytest.raises(TopicLoraError, match=f"router_scope: {scope} would") as refused:
        get_peft_model(seq2seq(family), config(router_scope=scope))
    assert "router_scope: linear" in refused.value.hint
    assert "exclude_modules" in refused.value.hint


@pytest.mark.parametrize(("family", "part"), [("t5", "EncDecAttention"), ("bart", "encoder_attn")])
def test_both_ways_out_work(family, part, shaken):
    ids = {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :4]}
    for settings in ({"router_scope": "linear"}, {"router_scope": "block", "exclude_modules": rf".*{part}.*"}):
        model = shaken(get_peft_model(seq2seq(family), config(**settings)))
        with record_routing(model) as record, torch.no_grad():
            model(**ids)
        assert any(part in name for name in record.logits) == (settings["router_scope"] == "linear")


@pytest.mark.parametrize(
    ("name", "crosses"),
    [
        ("decoder.block.0.layer.1.EncDecAttention.q", True),
        ("decoder.layers.0.encoder_attn.q_proj", True),
        ("h.0.crossattention.q_attn", True),
        ("layers.3.cross_attn.k_proj", True),
        ("decoder.layer.0.encoder_decoder_attention.query", True),
        ("encoder.layers.0.self_attn.q_proj", False),
        ("vision_encoder.layer.0.attention.query", False),
        ("crossing.layers.0.self_attn.q_proj", True),  # rather too much than too little
    ],
)
def test_cross_attention_is_known_by_its_usual_names(name, crosses):
    assert in_cross_attention(name) == crosses


def test_adapters_of_other_scopes_add_up(family_model, adapted, shaken):
    """In the first layer, whose inputs no other adapter changes."""
    targets = [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]
    model = adapted(family_model("llama"), router="linear", router_scope="group", target_modules=targets)
    model.add_adapter("other", config(r=3, num_experts=2, router_scope="block", target_modules=targets[:2]))
    model.base_model.set_adapter(["default", "other"])
    shaken(model)
    layer, outputs = model.get_base_model().get_submodule(targets[1]), []
    layer.register_forward_hook(lambda *call: outputs.append(call[2]))
    for names in (["default"], ["other"], ["default", "other"]):
        model.base_model.set_adapter(names)
        logits(model)
    with model.disable_adapter():
        logits(model)
    first, second, both, base = outputs
    torch.testing.assert_close(both, first + second - base, atol=1e-5, rtol=0)
    assert not torch.equal(first, second)


def test_a_pass_that_broke_off_leaves_nothing_for_the_next(family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama"), router="linear", router_scope="layer"))
    expected = logits(model, TOKENS[:1, :3])
    down: nn.Module = model.get_base_model().model.layers[0].mlp.down_proj
    interrupted(model, down.register_forward_pre_hook)
    assert torch.equal(logits(model, TOKENS[:1, :3]), expected)
