"""Gates along a text: the prompt's tokens and those that the model writes after it, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from topiclora_cli.adapters.observe import autocast
from topiclora_cli.evaluation.routers.observed import gates_of


@dataclass(frozen=True)
class Written:
    """A prompt and what was written after it: tokens, of which `prompt` are given, and gates (S, E) by module."""

    tokens: Sequence[str]
    prompt: int
    gates: dict[str, Tensor]


@torch.inference_mode()
def write_along(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], *, most: int, bfloat16: bool = False
) -> Written:
    """Have the model write at most `most` tokens after a prompt, the likeliest each time, and read every gate."""
    device = model.device
    ids = torch.tensor([list(prompt)], device=device)
    settings: Any = GenerationConfig(max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id)  # type: ignore[no-untyped-call]
    with autocast(bfloat16, device):
        made: Any = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)  # type: ignore[no-untyped-call]
    batch = {"input_ids": made, "attention_mask": torch.ones_like(made)}
    batch["prompt_mask"] = (torch.arange(made.shape[1], device=device) < len(prompt)).long()[None]
    gates = gates_of(model, batch, bfloat16=bfloat16)
    tokens = [str(tokenizer.decode([token])) for token in made[0].tolist()]
    routed = {name: each[0].float().cpu() for name, each in gates.items() if each.shape[-1] > 1}
    return Written(tokens, len(prompt), routed)
