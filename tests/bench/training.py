"""One training step as users take it: forward, backward, and AdamW in the fused form, transformers' default."""

from functools import partial

import torch
from torch import Tensor

from tests.bench.models import Candidate
from tests.bench.saved_bytes import saved_bytes


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU; on a CPU everything stays float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def random_tokens(vocabulary: int, batch: int, length: int, device: torch.device) -> Tensor:
    """The same tokens on every call."""
    generator = torch.Generator().manual_seed(batch * length)
    return torch.randint(vocabulary, (batch, length), generator=generator).to(device)


class Trainer:
    """A candidate with its optimizer; every token is a label."""

    def __init__(self, candidate: Candidate, device: torch.device) -> None:
        self.candidate, self.device = candidate, device
        self.optimizer = torch.optim.AdamW(candidate.trainable, fused=True) if candidate.trainable else None

    def loss(self, tokens: Tensor) -> Tensor:
        with autocast(self.device):
            return self.candidate.loss(tokens)

    def step(self, tokens: Tensor) -> None:
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        self.loss(tokens).backward()
        if self.optimizer is not None:
            self.optimizer.step()

    def saved_bytes(self, tokens: Tensor) -> int:
        return saved_bytes(partial(self.loss, tokens), self.candidate.weights)
