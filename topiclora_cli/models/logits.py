"""Whether a model makes logits only where they are asked for: found by a trial on two tokens.

Signatures do not tell: a model with code of its own may take a number of last positions alone, or nothing and say so to
nobody.
"""

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from topiclora_cli.adapters.observe import autocast

# Routed experts' products that work on the meta device, where no number says how many tokens an expert has.
_WITHOUT_COUNTS = "batched_mm"


@torch.no_grad()
def selects_logits(model: PreTrainedModel, *, bfloat16: bool = False) -> bool:
    """Whether the model makes logits only where a mask says, and its loss takes labels for these alone.

    For a model without any adapter, on the meta device, too, where the loss has no value to look at. bfloat16: read
    under autocast, as a model must be whose weights are partly in it.
    """
    device = model.device
    # Neither autocast nor an index knows the meta device.
    usable = torch.device("cpu") if device.type == "meta" else device
    vocabulary = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    tokens = torch.tensor([[1, 2]], device=device) % vocabulary
    following = tokens[0, 1:]
    wanted = torch.tensor([[True, False]], device=usable)
    experts = getattr(model.config, "_experts_implementation", None)
    if device.type == "meta" and experts is not None:
        model.set_experts_implementation(_WITHOUT_COUNTS)
    try:
        with autocast(bfloat16, usable):
            # With a cache no model looks for several examples in one row, which the meta device could not answer.
            found = model(
                input_ids=tokens, labels=tokens, logits_to_keep=wanted, shift_labels=following, use_cache=True
            )
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    finally:
        if device.type == "meta" and experts is not None:
            model.set_experts_implementation(experts)
    logits = found.logits.flatten(0, -2)
    if len(logits) != 1 or found.loss is None:
        return False
    return device.type == "meta" or bool(
        torch.isclose(found.loss.float(), F.cross_entropy(logits.float(), following), rtol=1e-2)
    )
