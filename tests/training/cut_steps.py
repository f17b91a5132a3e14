"""One optimizer step over twelve examples, cut as it is told: its gradients and what it logs, for every loss term.

`torchrun -m tests.training.cut_steps OUT` saves those of all TERMS, where each of two processes has its six examples in
one micro-batch and in two, by how many they are.
"""

import gc
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import AdaLoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    TrainerCallback,
    TrainingArguments,
)

from tests.conftest import SMALL
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.trainer import DualLossTrainer

MIXTURE = {"r": 2, "num_experts": 4, "top_k": 2, "target_modules": ["q_proj", "up_proj"]}
CONFIGS = {
    "topic": lambda: TopicLoraConfig(**MIXTURE, train_keys=True),
    "linear": lambda: TopicLoraConfig(**MIXTURE, router="linear", lora_dropout=0.0),
    "threshold": lambda: TopicLoraConfig(**{**MIXTURE, "top_k": None}, router="threshold"),
    "hierarchical": lambda: TopicLoraConfig(**MIXTURE, router="hierarchical"),
    "cosine": lambda: TopicLoraConfig(**{**MIXTURE, "shared_a": True}, router="cosine"),
    "perft": lambda: PerftConfig(variant="routed", r=2, num_adapters=4, top_k=2),
    "adalora": lambda: AdaLoraConfig(init_r=4, target_r=2, total_step=100, target_modules=["q_proj", "up_proj"]),
}
POOLED = {"balance": {"weight": 1.0, "counts": "tokens"}, "reduce_routers": "pool"}
TERMS = {
    "lm": ("linear", {}),
    "lm, weighted": ("linear", {}),
    "kl": ("topic", {"kl": {"weight": 1.0}}),
    "kl, unweighted": ("topic", {"kl": {"weight": 1.0, "confidence_weighted": False}}),
    "kl of all tokens": ("topic", {"kl": {"weight": 1.0, "tokens": "all"}}),
    "forced": ("topic", {"kl": {"weight": 1.0}, "prior_forcing": {"start": 0.7}}),
    "forced, unweighted": (
        "linear",
        {"prior_forcing": {"start": 0.7}, "kl": {"layers": "all", "confidence_weighted": False}},
    ),
    "forced, balanced": (
        "linear",
        {"prior_forcing": {"start": 0.7}, "balance": {"weight": 1.0, "scores": "gates"}},
    ),
    "forced beside blocks": ("perft", {"kl": {"weight": 1.0}, "prior_forcing": {"start": 0.7}}),
    "balance": ("linear", {"balance": {"weight": 1.0}}),
    "balance, summed": (
        "linear",
        {"balance": {"weight": 1.0, "scores": "gates"}, "reduce_routers": "sum"},
    ),
    "balance, pooled": ("linear", POOLED),
    "balance of an excess": ("threshold", {"balance": {"weight": 1.0, "scores": "excess"}}),
    "local_balance": ("linear", {"local_balance": {"weight": 1.0}}),
    "local_balance of types": ("topic", {"local_balance": {"weight": 1.0, "delta": 0.3}}),
    "normal": ("linear", {"normal": {"weight": 1.0}}),
    "z": ("linear", {"z": {"weight": 1.0}}),
    "gjs": ("linear", {"gjs": {"weight": 1.0}}),
    "gjs of two parts": ("hierarchical", {"gjs": {"weight": 1.0}, "reduce_routers": "sum"}),
    "poisson": ("linear", {"poisson": {"weight": 1.0}}),
    "sparsity": ("linear", {"sparsity": {"weight": 1.0, "target": 1}}),
    "contrast": ("topic", {"contrast": {"weight": 1.0, "tokens": 4, "temperature": 1.0}}),
    "anchor": ("topic", {"anchor": {"weight": 1.0}}),
    "orthogonal": ("linear", {"orthogonal": {"weight": 1.0}}),
    "centre": ("cosine", {"centre": {"weight": 1.0}, "reduce_routers": "sum"}),
    "base_balance": ("perft", {"base_balance": {"weight": 1.0}, **POOLED}),
    "adalora": ("adalora", {}),
}


class _Gradients(TrainerCallback):
    def __init__(self):
        self.found = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        named = model.named_parameters()
        self.found = {name: value.grad.clone() for name, value in named if value.grad is not None}


def examples(*, weighted=False):
    """Twelve of unlike length, with priors and confidence of their own, and, if wanted, tokens of unlike weight."""
    generator = torch.Generator().manual_seed(3)
    rows = [
        {
            "input_ids": torch.randint(3, 64, (6 + index % 7,), generator=generator).tolist(),
            "prompt_length": 2 + index % 3,
            "length": 6 + index % 7,
            "prior": torch.softmax(3 * torch.randn(4, generator=generator), 0).tolist(),
            "confidence": float(torch.rand((), generator=generator)),
        }
        for index in range(12)
    ]
    for index, row in enumerate(rows if weighted else ()):
        # Every third has none of its own, and one has nothing to learn from.
        kinds = [0.0, 0.0] if index == 5 else [0.25, 0.0, 2.0]
        weights = [kinds[place % len(kinds)] for place in range(len(row["input_ids"]))]
        row["weights"] = None if index % 3 == 0 else weights
    return rows


def adapted(kind, **changes):
    """A tiny model with a random adapter of a kind, on a sparse base for PERFT."""
    torch.manual_seed(0)
    if kind == "perft":
        base = OlmoeForCausalLM(OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2))
        base.set_experts_implementation("eager")  # which knows float64, too
        base.config.output_router_logits = True  # its own loss is to stay out of language modelling
    else:
        base = LlamaForCausalLM(LlamaConfig(**SMALL))
    config = CONFIGS[kind]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def one_step(term, batch_size, accumulation, *, packed=False, **changes):
    """The gradients by parameter and the logged row of a step of the term's adapter, cut into these micro-batches."""
    (kind, losses), weighted = TERMS[term], "weighted" in term.split(", ")
    # In float32 the order of a sum is seen, by how much hangs on the processor.
    model = adapted(kind, **changes).double()
    gradients = _Gradients()
    with tempfile.TemporaryDirectory() as folder:
        trainer = DualLossTrainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                max_steps=1,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                learning_rate=0.0,
                remove_unused_columns=False,
                save_strategy="no",
                logging_steps=1,
                ddp_find_unused_parameters=False,
                accelerator_config={"dispatch_batches": False},
            ),
            train_dataset=Dataset.from_list(examples(weighted=weighted)),
            data_collator=Collator(0, select_logits=True, packed=packed, weighted=weighted),
            loss_section=LossSection(**{**losses, "kl": {"weight": 0.0, "warmup": 0.0, **losses.get("kl", {})}}),
            router_learning_rate=None,
            loraplus_lr_ratio=None,
            group_by_length=False,
            decode=str,
            callbacks=[gradients],
        )
        trainer.train()
    # Clipped by the Trainer beforehand: scaled back to what they were.
    row = next(row for row in trainer.state.log_history if "loss" in row)
    scale = max(1.0, row["grad_norm"])
    return {name.removeprefix("module."): scale * value for name, value in gradients.found.items()}, row


if __name__ == "__main__":
    (out,) = sys.argv[1:]
    gc.freeze()  # every Trainer collects garbage, which would go through all that the libraries hold
    found = {count: {term: one_step(term, 6 // count, count) for term in TERMS} for count in (1, 2)}
    if torch.distributed.get_rank() == 0:
        assert torch.distributed.get_world_size() == 2
        torch.save(found, Path(out))
