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
SPARSE_BESIDE_DENSE = {
    **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    **{key: EXPERTS[key] for key in ("num_experts_per_tok", "moe_intermediate_size")},
}
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
    "deepseek_v2": {**SPARSE_BESIDE_DENSE, **LATENT},
    "deepseek_v3": {**SPARSE_BESIDE_DENSE, **LATENT},
    "glm4_moe": {**SPARSE_BESIDE_DENSE, "head_dim": 8},
    "ernie4_5_moe": {
        **{"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 1},
        "moe_num_shared_experts": 1,
    },
    "qwen3_next": {
        **{**EXPERTS, "head_dim": 8, "shared_expert_intermediate_size": 24, "linear_num_key_heads": 2},
        **{"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
        "layer_types": ["linear_attention", "full_attention"],
    },
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2, "head_dim": 8},
    "granitemoeshared": {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24},
    "granitemoehybrid": {
        **{"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24},
        **{"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8},
    },
    "mamba": {"state_size": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "jamba": {
        **{"mamba_d_state": 4, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
        **{"expert_layer_period": 2, "use_mamba_kernels": False},
    },
    "nemotron_h": {
        **{"num_hidden_layers": 3, "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 8},
        **{"mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "head_dim": 8},
    },
    "falcon_h1": {
        **{"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "head_dim": 8},
    },
    "recurrent_gemma": {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bart": {
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 48,
        "is_decoder": True,
    },
    "bloom": {"n_head": 4},
    "falcon": {},
    "gpt_neox": {},
    "phi": {},
    "xglm": {"d_model": 32, "ffn_dim": 48, "attention_heads": 4, "num_layers": 2},
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
def vision_model():
    """A tiny Gemma 3 with its vision tower."""
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**SMALL, **WINDOW},
        vision_config={**vision, "image_size": 8, "patch_size": 4},
        mm_tokens_per_image=1,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


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
