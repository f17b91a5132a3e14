"""In which numbers a base computes, and its frozen weights are kept."""

import torch
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


def use_bfloat16(precision: str) -> bool:
    """Whether to compute under bfloat16 autocast; `auto` does where the hardware multiplies it in silicon."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    # AVX512's product of pairs is twice the speed of float32's, AMX's tiles are more.
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))
