"""What models and adapters add to the language-modelling loss by themselves, kept apart from it.

A sparse base whose config asks for its routers' logits adds its balance loss, peft's AdaLoRA a penalty on its factors:
in full to every micro-batch, though the language-modelling loss is a share of the whole step there. Each is a term of
its own here, with a weight of its own.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

# The attribute by which transformers' sparse models weigh the router loss that they report.
BASE_COEFFICIENT = "router_aux_loss_coef"
_RANK_WEIGHT = "orth_reg_weight"


@contextmanager
def own_losses_apart(model: PeftModel) -> Iterator[None]:
    """Inside the block the model's loss is that of language modelling alone."""
    with ExitStack() as stack:
        for owner, name in _weights(model):
            before = getattr(owner, name)
            setattr(owner, name, 0.0)
            stack.callback(setattr, owner, name, before)
        yield


def rank_penalty(model: nn.Module) -> tuple[float, Tensor] | None:
    """Weight and value of AdaLoRA's: mean over factors P and Q of ||P^T P - I||, in Frobenius' norm (arXiv 2303.10512).

    None for another method, and where its weight is 0.
    """
    peft: Any = model
    config = peft.peft_config.get(getattr(peft.base_model, "trainable_adapter_name", ""))
    weight = getattr(config, _RANK_WEIGHT, 0.0)
    if not weight:
        return None
    products = []
    for name, factor in model.named_parameters():
        if factor.requires_grad and "lora_A" in name:
            products.append(factor @ factor.T)
        elif factor.requires_grad and "lora_B" in name:
            products.append(factor.T @ factor)
    identities = (torch.eye(len(product), device=product.device, dtype=product.dtype) for product in products)
    norms = [torch.linalg.norm(product - one) for product, one in zip(products, identities, strict=True)]
    return weight, torch.stack(norms).mean()


def _weights(model: PeftModel) -> Iterator[tuple[Any, str]]:
    # A model that holds another (one that also sees, say) may leave the weight to a config within its own.
    base: nn.Module = model.get_base_model()
    config = getattr(base, "config", None)
    for owner in (base, config, getattr(config, "text_config", None)):
        if hasattr(owner, BASE_COEFFICIENT):
            yield owner, BASE_COEFFICIENT
    for adapter in model.peft_config.values():
        if hasattr(adapter, _RANK_WEIGHT):
            yield adapter, _RANK_WEIGHT
