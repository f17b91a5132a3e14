"""Whether a model can read rows of several lengths in one batch: padded on the left, with a mask of what is padding.

Most do. A recurrent model that takes no notice of the mask reads the padding as text, and another text then.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from topiclora_cli.adapters.observe import autocast
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe.train import TrainSection

_LENGTH, _PADDING = 6, 5  # tokens of the example in the test of a model, and before it


@torch.no_grad()
def masks_padding(model: PreTrainedModel, *, bfloat16: bool = False) -> bool:
    """Whether an example that is padded gets the logits that it has alone; for a model without any adapter.

    bfloat16: read under autocast, as a model must be whose weights are partly in it.

    It is read alone, padded, and padded with a mask that calls the padding text, which shows how much that changes it;
    rounding may change no more than a tenth of that.
    """
    vocabulary = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    alone = (torch.arange(_LENGTH, device=model.device) + 1)[None] % vocabulary
    padded = torch.cat([alone.new_zeros(1, _PADDING), alone], dim=1)
    positions = torch.arange(-_PADDING, _LENGTH, device=model.device).clamp(min=0)[None]
    mask = (torch.arange(_PADDING + _LENGTH, device=model.device) >= _PADDING).long()[None]

    def logits(tokens: Tensor, attention_mask: Tensor) -> Tensor:
        inputs = {
            "input_ids": tokens,
            "attention_mask": attention_mask,
            "position_ids": positions[:, -tokens.shape[1] :],
        }
        with autocast(bfloat16, model.device):
            return model(**inputs, use_cache=False).logits[:, -_LENGTH:].float()

    right = logits(alone, mask[:, _PADDING:])
    masked, ignored = logits(padded, mask), logits(padded, torch.ones_like(mask))
    return bool((masked - right).norm() <= 0.1 * (ignored - right).norm())


def refuse_padding(base: BaseModel, train: TrainSection) -> None:
    """Raises TopicLoraError where batches would be padded and the model takes padding for text."""
    if not base.masks_padding and train.batch_size > 1 and not train.packing:
        raise TopicLoraError(
            f"{type(base.model).__name__} takes no notice of a batch's mask, and would read its padding as text.",
            f"The same steps without padding: train.batch_size=1, "
            f"train.gradient_accumulation={train.batch_size * train.gradient_accumulation}.",
        )
