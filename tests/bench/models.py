"""Random models of real shapes, and the adapters that are compared on them.

Time does not depend on the weights' values, so nothing is downloaded. All candidates of a process share one frozen
base: a 7B-shaped comparison then holds one base, and no candidate has warmer weights than another.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

Model = TypeVar("Model", bound=nn.Module)
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS, RANK, TOP_K = 8, 8, 2
ALPHA = 16
LORA_RANK = EXPERTS * RANK  # plain LoRA of the same total rank


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama that decide what a step costs."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool


SHAPES = {
    "135m": Shape(hidden=576, layers=30, intermediate=1536, heads=9, kv_heads=3, vocab=49152, tied=True),
    "1b": Shape(hidden=2048, layers=16, intermediate=8192, heads=32, kv_heads=8, vocab=128256, tied=True),
    "7b": Shape(hidden=4096, layers=32, intermediate=11008, heads=32, kv_heads=32, vocab=32000, tied=False),
}


@dataclass(frozen=True)
class Candidate:
    """A model under test: its loss on a batch of tokens, all its weights, and those of them that are trained."""

    loss: Callable[[Tensor], Tensor]
    weights: Sequence[Tensor]
    trainable: Sequence[Tensor]


def random_llama(shape: Shape, device: torch.device) -> LlamaForCausalLM:
    """A frozen random Llama: float32 on a CPU, bfloat16 on a GPU."""
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        with device:
            return LlamaForCausalLM(config).requires_grad_(False)
    finally:
        torch.set_default_dtype(default)


def twin(model: Model) -> Model:
    """A copy with modules of its own around the same weights."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def plain_lora(base: LlamaForCausalLM) -> PeftModel:
    """PEFT's LoRA on a twin of `base`, with the mixture's total rank."""
    config = LoraConfig(task_type="CAUSAL_LM", r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=LINEARS)
    return get_peft_model(twin(base), config)


def mixture(
    base: LlamaForCausalLM,
    *,
    experts: int = EXPERTS,
    shared: int = 0,
    rank: int = RANK,
    router_scope: str = "layer",
    kernel: str = "auto",
) -> PeftModel:
    """Our mixture on a twin of `base`."""
    from topiclora_cli.adapters import TopicLoraConfig  # not at the top: the peers' environment is too old for it

    config = TopicLoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        num_experts=experts,
        shared_experts=shared,
        top_k=TOP_K,
        lora_alpha=ALPHA,
        router="linear",
        target_modules=LINEARS,
        router_scope=router_scope,
        kernel=kernel,
    )
    return get_peft_model(twin(base), config)


def causal_lm(model: nn.Module) -> Candidate:
    """A candidate of any model that follows transformers' interface."""
    weights = list(model.parameters())
    return Candidate(
        loss=lambda tokens: model(input_ids=tokens, labels=tokens, use_cache=False).loss,
        weights=weights,
        trainable=[weight for weight in weights if weight.requires_grad],
    )
