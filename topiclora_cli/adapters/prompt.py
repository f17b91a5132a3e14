"""Routing by prompt: scores averaged over the prompt so far, and kept while decoding.

The mean at a token covers the prompt's tokens up to it, so nothing looks ahead; from the prompt's last token on it is
the mean of the whole prompt. Only the model's own forward call knows which tokens are padding, and whether this is the
prompt or a step of decoding, so one hook on the model tells the routers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from topiclora_cli.errors import TopicLoraError

_prompt_masks: list[Tensor] = []


@contextmanager
def prompt_tokens(mask: Tensor) -> Iterator[None]:
    """Say which tokens (B, S) are the prompt in the forward calls inside; without it, every token up to now is."""
    _prompt_masks.append(mask)
    try:
        yield
    finally:
        _prompt_masks.pop()


class PromptWatch:
    """Which tokens of the current forward call are prompt; a hook keeps it up to date."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self.decoding = False

    def observe(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the base model."""
        cache = kwargs.get("past_key_values")
        self.decoding = cache is not None and cache.get_seq_length() > 0
        if _prompt_masks:
            self.mask = _prompt_masks[-1]
        else:
            mask = kwargs.get("attention_mask")
            self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def weights(self, scores: Tensor) -> Tensor:
        """1 for tokens of the prompt, else 0: (B, S) like the scores (B, S, n)."""
        if scores.ndim != 3:
            raise TopicLoraError(
                f"Routing by prompt needs inputs of shape (batch, sequence, features), not {tuple(scores.shape)}.",
                "Leave the layers inside experts out of target_modules, or use granularity: token.",
            )
        if self.mask is None or self.mask.shape != scores.shape[:2]:
            return torch.ones(scores.shape[:2], device=scores.device)
        return self.mask.to(device=scores.device, dtype=torch.float32)


class PromptMean:
    """The running mean of one router's scores; remembers the prompt's mean for decoding."""

    def __init__(self, watch: PromptWatch) -> None:
        self.watch = watch
        self.last: Tensor | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        if self.watch.decoding and self.last is not None and self.last.shape[0] == scores.shape[0]:
            return self.last.expand_as(scores)
        weights = self.watch.weights(scores).unsqueeze(-1)
        mean = (scores * weights).cumsum(1) / weights.cumsum(1).clamp_min(1)
        self.last = mean[:, -1:].detach()
        return mean
