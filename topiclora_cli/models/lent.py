"""A base model that is loaded once and lent to one cell after another: each gets modules of its own over the same
frozen weights, so that whatever an adapter puts in, wraps or switches goes with the cell.

What changes a weight itself, as some starts of adapters do, is seen before the next cell gets it, by exact sums over
all bits.
"""

import copy
import hashlib
from dataclasses import replace

import torch
from torch import nn

from topiclora_cli.models.base import BaseModel
from topiclora_cli.topics.vector_cache import digest_weights


class Lender:
    """Keeps a base as it was loaded."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._state = self._digest()

    def lend(self) -> BaseModel:
        """The base for one borrower; its weights are everybody's, everything else is his."""
        memo = {id(weight): _shared(weight) for weight in self._base.model.parameters()}
        return replace(
            self._base,
            model=copy.deepcopy(self._base.model, memo),
            tokenizer=copy.deepcopy(self._base.tokenizer),
        )

    def pristine(self) -> bool:
        """Whether every bit of the weights is as it was loaded."""
        return self._digest() == self._state

    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        digest_weights(digest.update, self._base.model)
        return digest.digest()


def _shared(weight: nn.Parameter) -> nn.Parameter:
    with torch.no_grad():
        return nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
