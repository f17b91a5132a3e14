"""What the mixture keeps for backward, against plain LoRA of the same total rank: exact, so it can stand in CI."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bench.saved_bytes import saved_bytes
from topiclora_cli.adapters import TopicLoraConfig

# Two decoder layers in the shape of SmolLM2-135M; the rest of the model is the same on both sides.
SHAPE = LlamaConfig(
    vocab_size=64,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=2,
    num_attention_heads=9,
    num_key_value_heads=3,
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def kept(config):
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(SHAPE), config).train()
    tokens = torch.randint(0, 64, (4, 128))
    return saved_bytes(lambda: model(input_ids=tokens, labels=tokens).loss, model.parameters())


@pytest.fixture(scope="module")
def plain_lora():
    return kept(LoraConfig(r=64, target_modules=TARGETS, task_type="CAUSAL_LM"))


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"router": "linear", "top_k": 2, "router_scope": "layer"}, 1.005),
        ({"router": "linear", "top_k": 2}, 1.02),
        ({"router": "topic", "top_k": 2}, 1.02),
        ({"router": "linear"}, 1.02),
        ({"router": "linear", "shared_a": True}, 0.99),
    ],
)
def test_saves_no_more_than_plain_lora(settings, most, plain_lora):
    config = TopicLoraConfig(r=8, num_experts=8, target_modules=TARGETS, task_type="CAUSAL_LM", **settings)
    assert kept(config) / plain_lora <= most


def test_the_plain_form_is_what_the_fused_one_saves_against(plain_lora):
    config = TopicLoraConfig(r=8, num_experts=8, kernel="plain", target_modules=TARGETS, task_type="CAUSAL_LM")
    assert kept(config) / plain_lora > 1.02
