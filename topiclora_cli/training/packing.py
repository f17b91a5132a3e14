"""Several examples in one row, each as if it were alone: fewer rows, and hardly any padding in them.

transformers tells packed examples apart by their positions, which start again with each, and masks attention between
them. A model whose layers mix tokens in another way would mix examples, so every model is put to the test first.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor

from topiclora_cli.adapters.observe import autocast
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe

# The width at which attention over a row, masked parts included, is taken to cost as much as all else in a layer. For a
# hidden size of h that is about 6 h; twice too wide or too narrow changes the padding by a hundredth.
_DOUBLE = 2000
_LENGTH = 6  # tokens of an example in the test of a model


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of examples by number, as many as make attention and padding together cost the least.

    For each number of rows, the longest example left goes to the row with the most room (Graham's LPT rule, 1969).
    """
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    best, least = [longest_first], float("inf")
    for count in range(1, len(lengths) + 1):
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for index in longest_first:
            row = filled.index(min(filled))
            rows[row].append(index)
            filled[row] += lengths[index]
        width = max(filled)
        cost = count * width * (1 + width / _DOUBLE)
        if cost < least:
            best, least = rows, cost
    return best


def refuse_packing(recipe: Recipe, model: PeftModel) -> None:
    """Raises TopicLoraError where examples in one row would meet: in the model or in its adapters."""
    if any(getattr(config, "pools_prompt", False) for config in model.peft_config.values()):
        raise TopicLoraError(
            "train.packing is set, but this adapter's routing averages over the prompts of a whole row.",
            "Use granularity: token and a router other than hierarchical, or leave train.packing out.",
        )
    if not keeps_apart(model, bfloat16=use_bfloat16(recipe.train.precision)):
        raise TopicLoraError(
            f"train.packing is set, but {type(model.get_base_model()).__name__} lets packed examples see one another.",
            "Leave train.packing out, or use eager or sdpa attention if the model can.",
        )


@torch.no_grad()
def keeps_apart(model: PeftModel, *, bfloat16: bool = False) -> bool:
    """Whether packed examples get the logits that they have alone, under bfloat16 autocast if that is how it trains.

    Two rows of two examples each are read packed, apart, and as one text a row, which shows how much a mixture would
    change; rounding may change no more than a tenth of that.
    """
    model.eval()  # dropout would look like a mixture
    vocabulary = model.get_input_embeddings().weight.shape[0]
    apart = (torch.arange(4 * _LENGTH, device=model.device) % vocabulary).view(4, _LENGTH)
    joined = apart.view(2, 2 * _LENGTH)
    positions = torch.arange(2 * _LENGTH, device=model.device)

    def logits(tokens: Tensor, position_ids: Tensor) -> Tensor:
        with autocast(bfloat16, model.device):
            read = model(input_ids=tokens, position_ids=position_ids.expand_as(tokens), use_cache=False)
        return read.logits.float().reshape(4 * _LENGTH, -1)

    alone = logits(apart, positions[:_LENGTH])
    packed = logits(joined, positions % _LENGTH)
    mixed = logits(joined, positions)
    return bool((packed - alone).norm() < 0.1 * (mixed - alone).norm())
