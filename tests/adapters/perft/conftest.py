"""Tiny random mixture-of-experts models of many families, and PERFT adapters beside their blocks."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import SMALL
from topiclora_cli.adapters import PerftConfig

# Residual streams and router logits about as large as in trained models.
COMMON = {**SMALL, "initializer_range": 0.2}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 3}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
FAMILIES = {
    "olmoe": EXPERTS,
    "mixtral": LOCAL,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "granitemoe": LOCAL,
    "deepseek_v3": {
        **{"n_routed_experts": 6, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "num_key_value_heads": 4},
        **{"first_k_dense_replace": 1, "num_experts_per_tok": 3, "moe_intermediate_size": 16},
        **LATENT,
    },
    "gpt_oss": {**LOCAL, "head_dim": 8},
    "minimax": {**LOCAL, "head_dim": 8, "layer_types": ["full_attention"] * 2},
    "llama4_text": {"head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 48},
    "llama": {},
}

# What the testers run over: every variant, with every setting somewhere.
CONFIGS = {
    "routed": {},
    "routed-parallel": {"adapter_type": "parallel"},
    "routed-top1": {"top_k": 1},
    "routed-renormalised": {"renormalize": "on"},
    "routed-all": {"num_adapters": 3, "top_k": 3, "renormalize": "off"},
    "routed-sparse": {"r": 4, "kernel": "sparse"},
    "routed-parallel-sparse": {"r": 4, "kernel": "sparse", "adapter_type": "parallel"},
    "routed-and-shared": {"shared_adapters": 2, "num_adapters": 4},
    "routed-and-shared-sparse": {"r": 4, "shared_adapters": 1, "kernel": "sparse", "adapter_type": "parallel"},
    "routed-pretrained-weights": {"router_weight_source": "pretrained", "top_k": 3},
    "topic": {"router": "topic", "num_adapters": 4},
    "topic-anchored": {
        **{"router": "topic", "num_adapters": 4},
        "anchors": torch.randn(4, 9, generator=torch.Generator().manual_seed(1)).tolist(),
    },
    "topic-trained-keys": {"router": "topic", "num_adapters": 4, "train_keys": True, "router_temperature": 0.5},
    "embedded": {"variant": "embedded"},
    "embedded-sparse": {"variant": "embedded", "r": 4, "kernel": "sparse"},
    "embedded-upper-layer": {"variant": "embedded", "layers_to_transform": [1]},
    "dense-parallel": {"variant": "dense", "num_adapters": 3, "adapter_type": "parallel"},
    "shared": {"variant": "shared"},
    "shared-parallel": {"variant": "shared", "adapter_type": "parallel"},
    "lower-layer": {"exclude_modules": r".*\.1\..*"},
    "targets": {"variant": "dense", "target_modules": ["layers.1.mlp"]},
    "dropout": {"lora_dropout": 0.1},
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def settings(request):
    return request.param


@pytest.fixture(scope="session")
def moe_sizes():
    """Settings of a tiny text model with experts."""
    return {**COMMON, **EXPERTS}


@pytest.fixture(scope="session")
def moe_model():
    """A function: a family's name -> a tiny model of it, always with the same weights, in evaluation mode."""

    def build(name="olmoe", **changes):
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **{**COMMON, **FAMILIES[name], **changes})
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    return build


@pytest.fixture(scope="session")
def moe_dir(moe_model, tmp_path_factory):
    """The tiny olmoe on disk."""
    folder = tmp_path_factory.mktemp("olmoe")
    moe_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def beside():
    """A function: model and settings -> the model with PERFT adapters, in evaluation mode."""

    def adapt(model, **settings):
        return get_peft_model(model, PerftConfig(**{"r": 2, "task_type": "CAUSAL_LM", **settings})).eval()

    return adapt
