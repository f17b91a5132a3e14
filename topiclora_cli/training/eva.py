"""The start of a LoRA that reads training examples first: EVA (Paischer et al. 2024, arXiv 2410.07170), by peft."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel, initialize_lora_eva_weights
from torch import Tensor

from topiclora_cli.adapters.observe import autocast
from topiclora_cli.data import Encoded
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.training.collate import Collator

_INPUTS = ("input_ids", "attention_mask", "position_ids")


def start_from_activations(
    model: PeftModel,
    examples: Sequence[Encoded],
    *,
    pad_token_id: int,
    batch_size: int,
    seed: int,
    bfloat16: bool = False,
) -> None:
    """Set every A to the directions in which the layer's inputs vary most, over batches of examples in random order.

    B stays zero, so that the model is the base still. bfloat16: read them as training does, under autocast. Raises
    TopicLoraError where no batch has as many tokens as r.
    """
    rank = model.peft_config["default"].r  # type: ignore[attr-defined]
    rows = random.Random(seed).sample(list(examples), len(examples))
    batches = _batches(rows, rank, pad_token_id, batch_size)
    if not batches:
        raise TopicLoraError(
            f"adapter.init_lora_weights: eva finds no batch of {rank} tokens, as many as adapter.r.",
            "Raise train.batch_size, give more examples, or lower adapter.r.",
        )

    def forward(reader: Any, inputs: dict[str, Tensor]) -> Any:
        with autocast(bfloat16, inputs["input_ids"].device):
            return reader(**inputs)

    # All processes read the same examples, and find the same.
    initialize_lora_eva_weights(
        model, batches, forward_fn=forward, gather_distributed_inputs=False, show_progress_bar=False
    )


def _batches(rows: Sequence[Encoded], rank: int, pad_token_id: int, size: int) -> list[dict[str, Tensor]]:
    """Those that peft does not pass over; with none left it would go on looking for ever."""
    collate = Collator(pad_token_id)
    made = []
    for start in range(0, len(rows), size):
        members = [{"input_ids": e.input_ids, "prompt_length": e.prompt_length} for e in rows[start : start + size]]
        batch = {key: value for key, value in collate(members).items() if key in _INPUTS}
        if int(torch.sum(batch["attention_mask"])) >= rank:
            made.append(batch)
    return made
