"""Routing by prompt: scores averaged over the prompt so far, and kept while decoding.

The mean at a token covers the prompt's tokens up to it, so nothing looks ahead; from the prompt's last token on it is
the mean of the whole prompt. Only the model's own forward call knows which tokens are padding, and whether this is the
prompt or a step of decoding, so a pair of hooks on the model tells the routers.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from topiclora_cli.errors import TopicLoraError

_prompt_masks: list[Tensor] = []


@contextmanager
def prompt_tokens(mask: Tensor) -> Iterator[None]:
    """Say which tokens (B, P) are the prompt in the forward calls inside; those after the P-th are not.

    Without it, a call without a cache takes all its tokens for the prompt, and one with a filled cache none. Decoding
    without a cache, in speculation or with the prompt in chunks equals plain decoding only inside this block.
    """
    _prompt_masks.append(mask)
    try:
        yield
    finally:
        _prompt_masks.pop()


def default_prompt(mask: Tensor | None) -> AbstractContextManager[None]:
    """prompt_tokens(mask), unless there is no mask or somebody has said already."""
    return nullcontext() if mask is None or _prompt_masks else prompt_tokens(mask)


@dataclass(frozen=True)
class PromptCall:
    """What one forward call says of its tokens: which are prompt (B, S), None for all; and whether it goes on from a
    cache, in which case None stands for none of them."""

    mask: Tensor | None = None
    continues: bool = False


class PromptWatch:
    """The current forward call of a model; two hooks keep it up to date."""

    def __init__(self) -> None:
        self.call = PromptCall()

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Watch the forward calls of `model`; remove what is returned to stop."""
        return [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        seen = 0 if cache is None else cache.get_seq_length()
        continues = bool(seen > 0)
        if _prompt_masks:
            mask = _prompt_masks[-1]
            self.call = PromptCall(mask[:, int(seen) :] if continues else mask, continues)
        else:
            self.call = PromptCall(None if continues else _token_mask(kwargs.get("attention_mask")), continues)

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # Checkpointing runs layers again in backward, when other calls may have followed this one.
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        call = self.call
        tensors = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else (output,)
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _: setattr(self, "call", call))


class PromptMean:
    """The running mean of one router's scores (B, S, n) over the prompt, from one forward call to the next."""

    def __init__(self, watch: PromptWatch) -> None:
        self.watch = watch
        self.total: Tensor | None = None
        self.count: Tensor | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        if scores.ndim != 3:
            raise TopicLoraError(
                f"Routing by prompt needs inputs of shape (batch, sequence, features), not {tuple(scores.shape)}.",
                "Leave the layers inside experts out of target_modules, or use granularity: token.",
            )
        call = self.watch.call
        weights = _fit(call, scores).unsqueeze(-1)
        total, count = (scores * weights).cumsum(1), weights.cumsum(1)
        if call.continues:
            if self.total is None or self.count is None or self.total.shape[0] not in (1, scores.shape[0]):
                raise TopicLoraError(
                    "Routing by prompt goes on from a cache, but did not see its prompt.",
                    "Fill the cache with the same adapter and batch.",
                )
            total, count = total + self.total, count + self.count
        self.total, self.count = total[:, -1:].detach(), count[:, -1:]
        return total / count.clamp_min(1)


def _fit(call: PromptCall, scores: Tensor) -> Tensor:
    """The call's mask as weights (B, S) for its scores (B, S, n)."""
    batch, length, _ = scores.shape
    if call.mask is None:
        return scores.new_full((batch, length), 0.0 if call.continues else 1.0)
    rows, columns = call.mask.shape
    if batch % rows:
        raise TopicLoraError(f"The prompt mask has {rows} rows, the batch {batch}.", "Pass one row per example.")
    mask = call.mask.to(scores).repeat_interleave(batch // rows, 0)  # beams of an example stand side by side
    return F.pad(mask, (0, length - columns))


def _token_mask(attention_mask: Any) -> Tensor | None:
    """Which tokens are not padding, (B, S), from the masks that transformers hands to a model's first forward call."""
    if isinstance(attention_mask, dict):  # one for each kind of attention layer
        attention_mask = next((mask for mask in attention_mask.values() if mask is not None), None)
    if not isinstance(attention_mask, Tensor):
        return None
    if attention_mask.ndim == 2:
        return attention_mask
    # Queries by keys: a token sees itself unless it is padding.
    own = attention_mask[:, 0].diagonal(dim1=-2, dim2=-1)
    return own if own.dtype == torch.bool else own == 0
