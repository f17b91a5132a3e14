"""The language-modelling loss of each labelled token, for means that a model does not take by itself."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.training.batch import Batch
from topiclora_cli.training.collate import next_labels


@dataclass(frozen=True)
class LabelLosses:
    """values (n,) in nats, of the labels that come next to the places `wanted` (R, W); outputs: the model's own.

    weights (n,): of these labels, 1 where the batch has none.
    """

    values: Tensor
    wanted: Tensor
    weights: Tensor
    outputs: Any


def label_losses(model: nn.Module, batch: Batch) -> LabelLosses:
    """A forward pass, and the loss at each labelled token."""
    wanted, targets = next_labels(batch.inputs["labels"])
    inputs = {name: value for name, value in batch.inputs.items() if name not in ("labels", "shift_labels")}
    outputs = model(**inputs)
    logits = outputs.logits
    chosen = logits.flatten(0, -2) if "logits_to_keep" in inputs else logits[wanted]
    values = F.cross_entropy(chosen.float(), targets, reduction="none")
    if batch.label_weights is None:
        return LabelLosses(values, wanted, torch.ones_like(values), outputs)
    # Label and weight of a token stand at its own place, its loss at the one before.
    return LabelLosses(values, wanted, F.pad(batch.label_weights[:, 1:], (0, 1))[wanted], outputs)
