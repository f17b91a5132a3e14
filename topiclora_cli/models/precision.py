"""In which numbers a base computes, and its frozen weights are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def store_weights_in_bfloat16(model: PreTrainedModel) -> None:
    """Keep the weights of frozen linear layers and fused experts in bfloat16, for a model under bfloat16 autocast.

    Autocast rounds linear layers to bfloat16 in any case and does not cache the rounding of frozen weights, so for them
    this changes no result and saves one conversion of the whole model per forward pass. Experts it rounds or not, by
    how they are multiplied: grouped products would run in float32 for want of this. A head tied to the embedding stays
    as it is.
    """
    embedding = model.get_input_embeddings().weight
    for name, module in model.named_modules():
        weights = [module.weight] if isinstance(module, torch.nn.Linear) else []
        if name.endswith(".experts"):
            weights = [weight for weight in module.parameters(recurse=False) if weight.ndim == 3]
        for weight in weights:
            # A quantised weight is a linear layer's, too, but packed.
            if weight is not embedding and weight.is_floating_point():
                weight.data = weight.data.to(torch.bfloat16)


@contextmanager
def rounded_head(model: Any, *, bfloat16: bool) -> Iterator[None]:
    """A block in which the head of a model, one of peft's too, has its frozen weights in bfloat16, if that is what
    autocast computes in: where they are the embedding's they are kept in float32, and rounded anew for every token.

    It holds a copy of them and changes no result. Other threads should leave the model alone.
    """
    head: Any = model.get_output_embeddings() if bfloat16 else None
    weight = head.weight if type(head) is nn.Linear else None
    if weight is None or weight.requires_grad or weight.is_meta or weight.dtype != torch.float32:
        yield
        return
    head.weight = nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
    try:
        yield
    finally:
        head.weight = weight


def use_bfloat16(precision: str) -> bool:
    """Whether to compute under bfloat16 autocast; `auto` does where the hardware multiplies it in silicon."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    # AMX's tiles are many times the speed of float32; AVX512's product of pairs twice, but on Intel's cores no faster.
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and "Intel" not in str(has.get("cpu_name"))))
