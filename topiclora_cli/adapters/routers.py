"""Routers turn a hidden state into one logit per expert.

A gate may depend on its own token only: anything pooled over the sequence would let a prediction see the future.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.02


class LinearRouter(nn.Module):
    """Logits W x / tau (MoLoRA, MixLoRA and most others): x (..., d_in) -> (..., E)."""

    def __init__(self, in_features: int, num_experts: int, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = nn.Parameter(torch.empty(num_experts, in_features).normal_(std=INIT_STD))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)).float() / self.temperature


class TopicRouter(nn.Module):
    """Logits (W x) . k_e / (tau sqrt(d_k)) + b_e against topic-anchored keys k_e: x (..., d_in) -> (..., E).

    The keys are stage 1's expert vectors rotated into their own span (`keys_from_anchors`), so d_k = E and no inner
    product changes. Frozen keys are a buffer; trained keys remember their anchor for the anchor loss.
    Reconstruction of TopicLoRA (AAAI 2026), of which only the abstract is public.
    """

    keys: Tensor
    anchor: Tensor

    def __init__(self, in_features: int, keys: Tensor, *, temperature: float = 1.0, train_keys: bool = False) -> None:
        super().__init__()
        num_experts, width = keys.shape
        self.scale = 1.0 / (temperature * width**0.5)
        self.weight = nn.Parameter(torch.empty(width, in_features).normal_(std=INIT_STD))
        self.bias = nn.Parameter(torch.zeros(num_experts))
        if train_keys:
            self.keys = nn.Parameter(keys.clone())
            self.register_buffer("anchor", keys.clone())
        else:
            self.register_buffer("keys", keys.clone())

    def restore_precision(self, keys: Tensor) -> None:
        """Undo the rounding of a move to a half-precision base: peft casts parameters back, but not buffers."""
        for name, buffer in list(self.named_buffers()):
            if not buffer.is_meta:
                setattr(self, name, keys.to(buffer.device))

    def forward(self, x: Tensor) -> Tensor:
        # Keys meet the weight, not the tokens: (E, d_k) @ (d_k, d_in) is small and saves a tensor per token.
        scores = (self.keys @ self.weight) * self.scale
        return F.linear(x, scores.to(x.dtype)).float() + self.bias


def keys_from_anchors(anchors: Tensor) -> Tensor:
    """Rotate expert vectors (E, d) into their span: keys (E, E) with the same inner products."""
    left, singular, _ = torch.linalg.svd(anchors.double(), full_matrices=False)
    keys = left * singular
    padding = anchors.shape[0] - keys.shape[1]
    return F.pad(keys, (0, padding)).to(torch.float32)


def simplex(num_experts: int) -> Tensor:
    """Keys (E, E) as far apart as E unit vectors can be: pairwise cosine -1/(E-1)."""
    if num_experts == 1:
        return torch.ones(1, 1)
    return F.normalize(torch.eye(num_experts) - 1.0 / num_experts, dim=-1)
