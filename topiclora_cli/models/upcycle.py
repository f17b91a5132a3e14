"""Sparse upcycling: a dense Llama-type model becomes a Mixtral whose experts all start as the dense feed-forward block.

After Komatsuzaki et al., arXiv 2212.05055. A token's gates sum to one, so equal experts give back the dense block
whatever the fresh router chooses. Noise goes to every expert alike, the first included: an expert left exact would be
the best from the start, and the router would learn to send it everything.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    MixtralConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.schema import UpcycleSection
from topiclora_cli.runs.files import replacing

PROBE = "The quick brown fox jumps over the lazy dog, and 12 + 30 is 42."
_DENSE = {"llama": LlamaForCausalLM, "mistral": MistralForCausalLM}
_SUPPORTED = "Supported: llama and mistral models without biases, not quantised."
_CARRIED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("rope_parameters", "attention_dropout", "tie_word_embeddings", "use_cache"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
)


@dataclass(frozen=True)
class Upcycled:
    """What was made: its precision, and the largest logit difference to the dense model on PROBE."""

    difference: float
    dtype: str


def check_dense(config: Any) -> None:
    """Raise TopicLoraError, naming the model's type, for a configuration that cannot be upcycled."""
    kind = config.model_type
    if getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None):
        raise TopicLoraError(f"A {kind!r} model is a mixture of experts already and cannot be upcycled.", _SUPPORTED)
    if kind not in _DENSE:
        raise TopicLoraError(f"A {kind!r} model cannot be upcycled.", _SUPPORTED)
    if getattr(config, "quantization_config", None):
        raise TopicLoraError(f"This {kind!r} model is quantised and cannot be upcycled.", _SUPPORTED)
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        raise TopicLoraError(f"This {kind!r} model has biases, for which a Mixtral has no place.", _SUPPORTED)


def mixtral_config(config: Any, settings: UpcycleSection) -> MixtralConfig:
    """The configuration of the upcycled model; raises TopicLoraError for one that cannot be upcycled."""
    check_dense(config)
    return MixtralConfig(
        **{name: copy.deepcopy(getattr(config, name)) for name in _CARRIED},
        sliding_window=getattr(config, "sliding_window", None),
        num_local_experts=settings.experts,
        num_experts_per_tok=settings.top_k,
    )


@torch.no_grad()
def upcycle(dense: PreTrainedModel, settings: UpcycleSection) -> PreTrainedModel:
    """A Mixtral of the dense model's dtype, on the CPU, sharing no storage with it; in evaluation mode.

    Raises TopicLoraError for any other model than a bias-free Llama or Mistral.
    """
    config = mixtral_config(dense.config, settings)
    if not isinstance(dense, _DENSE[dense.config.model_type]):
        raise TopicLoraError(f"A {type(dense).__name__} is no causal language model.", _SUPPORTED)
    with no_init_weights():
        moe = AutoModelForCausalLM.from_config(config, dtype=dense.dtype)
    moe.tie_weights()
    generator = torch.Generator().manual_seed(settings.seed)
    # Before anything else is drawn, so that one seed gives one router, with noise or without.
    for layer in moe.model.layers:
        layer.mlp.gate.weight.normal_(0, config.initializer_range or 0.02, generator=generator)
    for part in ("model.embed_tokens", "model.norm", "lm_head"):
        _copy(dense.get_submodule(part), moe.get_submodule(part))
    for old, new in zip(dense.model.layers, moe.model.layers, strict=True):
        for part in ("self_attn", "input_layernorm", "post_attention_layernorm"):
            _copy(old.get_submodule(part), new.get_submodule(part))
        _fill_experts(old.mlp, new.mlp.experts, settings, generator)
    moe.generation_config = copy.deepcopy(dense.generation_config)
    return moe.eval()


@torch.no_grad()
def max_logit_difference(first: PreTrainedModel, second: PreTrainedModel, tokens: Tensor) -> float:
    """The largest absolute difference of two models' logits on tokens (b, n)."""
    one, other = (model(input_ids=tokens.to(model.device)).logits.float().cpu() for model in (first, second))
    return float((one - other).abs().max())


def write_upcycled(
    dense: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, settings: UpcycleSection
) -> Upcycled:
    """Upcycle and write a transformers folder in one step; raises TopicLoraError as `upcycle` does."""
    moe = upcycle(dense, settings)
    difference = max_logit_difference(dense, moe, tokenizer(PROBE, return_tensors="pt")["input_ids"])
    with replacing(folder) as temporary:
        moe.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return Upcycled(difference, str(moe.dtype).removeprefix("torch."))


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def _fill_experts(dense: nn.Module, experts: Any, settings: UpcycleSection, generator: torch.Generator) -> None:
    gate, up, down = (dense.get_parameter(f"{name}_proj.weight").cpu() for name in ("gate", "up", "down"))
    for number in range(settings.experts):
        # The order of the hidden neurons means nothing, as long as all three matrices agree on it.
        order = torch.randperm(len(gate), generator=generator) if settings.permute else slice(None)
        own_gate, own_up, own_down = (_with_noise(matrix, settings.noise, generator) for matrix in (gate, up, down))
        experts.gate_up_proj[number] = torch.cat([own_gate[order], own_up[order]])
        experts.down_proj[number] = own_down[:, order]


def _with_noise(matrix: Tensor, share: float, generator: torch.Generator) -> Tensor:
    if share == 0:
        return matrix
    wide = matrix.float()
    return wide + share * wide.std() * torch.randn(wide.shape, generator=generator)
