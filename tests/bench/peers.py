"""Other mixtures of LoRA experts, in an environment of their own: they need transformers before 4.47.

    sh tests/bench/install_peers.sh .venv-peers
    make bench BENCH="--peers .venv-peers/bin/python"

The bench starts this file with that environment's python and asks it for one step at a time, turn about with its own
steps, so that both sides share whatever the machine is doing. The first line on stdout tells the cases and the bytes
each saves for backward; then every line on stdin names a case and is answered with the seconds its step took.

Same random base and batch, E=8, r=8, top-2, all 7 linears as targets:
- `mixlora` 0.2.3: plain LoRA on attention, experts on the MLP. The package has no balance loss, so none is added.
- `moe-peft` 2.0.2 MixLoRA: the same method, with that library's eager attention and balance loss.
- `moe-peft` 2.0.2 MoLA: experts and a router on every linear; its balance loss is off by default, and so here.
Both assert a dropout above zero at construction. It is set to zero afterwards, save in moe-peft's plain LoRA, whose
fused function asserts it at every call.
"""

import argparse
import contextlib
import json
import os
import sys
from collections import defaultdict
from functools import partial
from importlib.metadata import version

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from tests.bench.models import (
    ALPHA,
    EXPERTS,
    LINEARS,
    LORA_RANK,
    RANK,
    TOP_K,
    Candidate,
    causal_lm,
    plain_lora,
    random_llama,
    twin,
)
from tests.bench.options import add_model_options, chosen_shape
from tests.bench.timing import timed
from tests.bench.training import Trainer, random_tokens

CONTROL = f"PEFT LoRA r={LORA_RANK}, peers' environment"  # how much of a difference is the older transformers
SIZE = (4, 128)  # batch x length
METHOD = {
    "r": RANK,
    "lora_alpha": ALPHA,
    "lora_dropout": 1e-9,
    "target_modules": LINEARS,
    "num_experts": EXPERTS,
    "top_k": TOP_K,
}


def mixlora(base: LlamaForCausalLM) -> Candidate:
    """The package mixlora, whose experts hang on the model where `parameters()` does not see them."""
    from mixlora import MixLoraConfig, inject_adapter_in_model
    from mixlora.lora_linear import LoraLinear

    config = MixLoraConfig.from_config(
        METHOD
        | {"peft_type": "MIXLORA", "routing_strategy": "mixlora", "act_fn": "silu"}
        | {"base_model_name_or_path": "random", "task_type": "CAUSAL_LM"}
    )
    config.adapter_name_, config.dtype_ = "bench", torch.float32
    weights: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))  # placeholders, reset below
    for layer in range(base.config.num_hidden_layers):
        gate = torch.randn(EXPERTS, base.config.hidden_size, device=base.device)
        weights[f"mixlora.layers.{layer}.mlp.moe_gate.weight"] = nn.Parameter(0.02 * gate)
    model = twin(base)
    inject_adapter_in_model(model, config.check(), weights)

    mixtures = [layer.mlp.mixlora_moes["bench"] for layer in model.model.layers]
    loras = [module for module in model.modules() if isinstance(module, LoraLinear)]
    loras += [lora for mixture in mixtures for lora in mixture.experts_.values()]
    for lora in loras:
        lora.reset_parameters()
        lora.dropout_.p = 0.0
    trainable = [mixture.gate_ for mixture in mixtures]
    trainable += [weight for lora in loras for weight in (lora.lora_A.weight, lora.lora_B.weight)]
    return Candidate(causal_lm(model.train()).loss, [*model.parameters(), *trainable], trainable)


def moe_peft(base: LlamaForCausalLM, method: str) -> Candidate:
    """MoE-PEFT's method of that name, on its own model code around the same weights."""
    from moe_peft import LLMBatchConfig, LLMModel, LLMModelInput, adapter_factory
    from moe_peft.models import from_pretrained

    source = twin(base)
    model = LLMModel(from_pretrained(source, attn_impl="eager", use_sliding_window=False, device=str(base.device)))
    model.init_adapter(adapter_factory(method, "bench", routing_strategy=method.lower(), **METHOD))
    for decoder in model.model_.decoder_stack():
        attention, mlp = decoder.state_dict()
        for linear in (*attention.values(), *mlp.values()):
            for name, lora in linear.loras_.items():
                if name.startswith("moe."):
                    lora.dropout_.p = 0.0

    def loss(tokens: Tensor) -> Tensor:
        batch = LLMModelInput(
            batch_configs_=[LLMBatchConfig("bench", 0, len(tokens))],
            batch_tokens_=tokens,
            batch_labels_=tokens,
            batch_masks_=torch.ones_like(tokens),
        )
        (output,) = model(batch)
        return output.loss if output.aux_loss is None else output.loss + output.aux_loss

    trainable = list(model.get_adapter_weight_dict("bench").values())
    return Candidate(loss, [*source.parameters(), *model.model_.lm_head_.parameters(), *trainable], trainable)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the peers' training steps; started by the bench.")
    add_model_options(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    os.environ["MOE_PEFT_EXECUTOR_TYPE"] = device.type
    if options.threads:
        torch.set_num_threads(options.threads)
    replies = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # whatever a library prints must not pass for a reply
        shape = chosen_shape(options)
        base, tokens = random_llama(shape, device), random_tokens(shape.vocab, *SIZE, device)
        candidates = {
            CONTROL: causal_lm(plain_lora(base).train()),
            f"mixlora {version('mixlora')}": mixlora(base),
            f"moe-peft {version('moe-peft')} MixLoRA": moe_peft(base, "MIXLORA"),
            f"moe-peft {version('moe-peft')} MoLA": moe_peft(base, "MOLA"),
        }
        trainers = {name: Trainer(candidate, device) for name, candidate in candidates.items()}
        cases = {name: timed(partial(trainer.step, tokens), device) for name, trainer in trainers.items()}
        saved = {name: trainer.saved_bytes(tokens) for name, trainer in trainers.items()}
        print(json.dumps(saved), file=replies, flush=True)
        for line in sys.stdin:
            print(cases[line.strip()](), file=replies, flush=True)


if __name__ == "__main__":
    main()
