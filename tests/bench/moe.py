"""What adapters cost on a sparse mixture-of-experts model: PERFT's variants and PEFT's LoRA, over the frozen base.

The anchor is the frozen model with gradients all the way down to its inputs, so that what is left is the adapters' own.
The shape is a small OLMoE's: hidden 512, 8 layers, 16 experts of width 256, 4 of them per token; and the same with 64
experts, 8 per token, where an implementation that gathers weights or outputs per token and expert shows it.
"""

from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn
from transformers import OlmoeConfig, OlmoeForCausalLM

from tests.bench.models import Candidate, causal_lm, twin
from tests.bench.report import Bar
from topiclora_cli.adapters import PerftConfig

FROZEN = "frozen base"
ROUTED, EMBEDDED = "PERFT-R, 8 adapters top-2, r=8", "PERFT-E, r=8"
FUSED_LORA = "PEFT LoRA r=8 on the fused experts"
VOCABULARY = 8192
BATCH, LENGTH = 4, 128


@dataclass(frozen=True)
class Experts:
    """How many experts each block has, and how many act per token."""

    number: int
    per_token: int

    def __str__(self) -> str:
        return f"{self.number} experts, top-{self.per_token}"


SIZES = (Experts(16, 4), Experts(64, 8))
STEP_BARS = {SIZES[0]: {ROUTED: Bar(1.06), EMBEDDED: Bar(1.06)}}


def contestants(experts: Experts, device: torch.device) -> dict[str, Candidate]:
    """The frozen base and its adapted copies around the same weights."""
    base = random_olmoe(experts, device)
    alike = {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM"}
    fused = ["experts.gate_up_proj", "experts.down_proj"]
    configs: dict[str, PeftConfig] = {
        ROUTED: PerftConfig(num_adapters=8, top_k=2, **alike),
        EMBEDDED: PerftConfig(variant="embedded", **alike),
        "PERFT-D, 2 adapters, r=8": PerftConfig(variant="dense", num_adapters=2, **alike),
        "PERFT-S, parallel, r=8": PerftConfig(variant="shared", adapter_type="parallel", **alike),
        "PEFT LoRA r=8 on q, v": LoraConfig(target_modules=["q_proj", "v_proj"], **alike),
        FUSED_LORA: LoraConfig(target_modules=[], target_parameters=fused, **alike),
    }
    models: dict[str, nn.Module] = {name: get_peft_model(twin(base), config) for name, config in configs.items()}
    for model in models.values():
        model.get_base_model().enable_input_require_grads()  # type: ignore[operator]
    frozen = twin(base)
    frozen.enable_input_require_grads()
    return {name: causal_lm(model.train()) for name, model in {FROZEN: frozen, **models}.items()}


def random_olmoe(experts: Experts, device: torch.device) -> OlmoeForCausalLM:
    """A frozen random OLMoE: float32 on a CPU, bfloat16 on a GPU."""
    config = OlmoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_experts=experts.number,
        num_experts_per_tok=experts.per_token,
        pad_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = OlmoeForCausalLM(config).to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return model.requires_grad_(False)
