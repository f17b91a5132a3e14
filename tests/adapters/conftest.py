"""Tiny random models of many families, and adapters upon them."""

from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import SMALL, shaken
from topiclora_cli.adapters import TopicLoraConfig

pytest.register_assert_rewrite("tests.adapters.helpers")

WINDOW = {"head_dim": 8, "sliding_window": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma2": WINDOW,
    "gemma3_text": WINDOW,
    "phi3": {},
    "olmo2": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "olmoe": EXPERTS,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24},
    "deepseek_v3": {
        **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4},
        **{key: EXPERTS[key] for key in ("num_experts_per_tok", "moe_intermediate_size")},
        **LATENT,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, **WINDOW},
    "llama4_text": {"head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 48},
}


@pytest.fixture(scope="session")
def family_model():
    """A function: a family's name -> a tiny model of it, always with the same weights, in evaluation mode."""

    def build(name, **changes):
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **{**SMALL, **FAMILIES[name], **changes})
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    return build


@pytest.fixture(scope="session")
def adapted():
    """A function: model and settings -> the model with a mixture on all its linear layers, in evaluation mode."""

    def adapt(model, **settings):
        defaults = {"r": 2, "num_experts": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        return get_peft_model(model, TopicLoraConfig(**{**defaults, **settings})).eval()

    return adapt


@pytest.fixture(scope="session", name="shaken")
def shaken_() -> Callable[..., nn.Module]:
    """The function that makes what is trainable random."""
    return shaken
