"""Scores averaged over the prompt so far, and kept while decoding.

The mean at a token covers the prompt's tokens up to it, so nothing looks ahead; from the prompt's last token on it is
the mean of the whole prompt.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from topiclora_cli.adapters.context import PromptCall
from topiclora_cli.adapters.prompt import PromptWatch
from topiclora_cli.errors import TopicLoraError


class PromptMean:
    """The running mean of one router's scores (B, S, n) over the prompt, from one forward call to the next.

    Sums and counts are kept for every token of the prompt, so that a cache may be cropped inside it.
    """

    def __init__(self, watch: PromptWatch, name: str) -> None:
        self.watch = watch
        self.name = name

    def __call__(self, scores: Tensor) -> Tensor:
        if scores.ndim != 3:
            raise TopicLoraError(
                f"Routing by prompt needs inputs of shape (batch, sequence, features), not {tuple(scores.shape)}.",
                "Leave the layers inside experts out of target_modules, or use granularity: token.",
            )
        call = self.watch.call
        self.watch.check(call)
        if call.length not in (None, scores.shape[1]):
            raise TopicLoraError(
                f"Routing by prompt needs all tokens, and {self.name} reads {scores.shape[1]} of {call.length}.",
                "Leave it out of target_modules, or use granularity: token.",
            )
        if call.seen and call.mask is None:
            total, count = (_repeated(sums[:, : call.seen][:, -1:], scores) for sums in self._kept(call, scores))
            return (total / count.clamp_min(1)).expand_as(scores)
        weights = _weights(call.mask, scores)
        total, count = (scores * weights).cumsum(1), weights.cumsum(1)
        if not call.seen:
            kept = total.detach(), count
        else:
            totals, counts = (_until(_repeated(sums, scores), call.seen) for sums in self._kept(call, scores))
            _check_earlier(call, counts)
            total, count = total + totals[:, -1:], count + counts[:, -1:]
            kept = torch.cat([totals, total.detach()], 1), torch.cat([counts, count], 1)
        if call.kept is not None:
            call.kept[self.name] = kept
        return total / count.clamp_min(1)

    def _kept(self, call: PromptCall, scores: Tensor) -> tuple[Tensor, Tensor]:
        if call.seen < 0:
            raise TopicLoraError(
                "Routing by prompt needs a cache that counts its tokens; tuples and recurrent states do not.",
                "Decode with use_cache=False.",
            )
        kept = (call.kept or {}).get(self.name)
        if kept is None or len(scores) % len(kept[0]):
            raise TopicLoraError(
                "Routing by prompt goes on from a cache, but did not see its prompt.",
                "Fill the cache with the same adapter and batch.",
            )
        return kept


def _repeated(sums: Tensor, scores: Tensor) -> Tensor:
    """One row for each of the scores': whoever repeats a cache puts the copies of a row side by side."""
    times = len(scores) // len(sums)
    return sums if times == 1 else sums.repeat_interleave(times, 0)


def _until(sums: Tensor, length: int) -> Tensor:
    """Running sums (B, P, n) at the first `length` tokens; behind the P-th they rise no more."""
    sums = sums[:, :length]
    missing = length - sums.shape[1]
    return torch.cat([sums, sums[:, -1:].expand(-1, missing, -1)], 1) if missing else sums


def _check_earlier(call: PromptCall, counted: Tensor) -> None:
    """Raises TopicLoraError where tokens in the cache are prompt now and were not when it was filled, or vice versa."""
    if call.earlier is None or torch.compiler.is_compiling():
        return
    said = _weights(call.earlier, counted).sum(1)
    call.earlier = None
    if not torch.equal(said, counted[:, -1]):
        raise TopicLoraError(
            "Routing by prompt goes on from a cache in which other tokens counted as prompt than do now.",
            "Start without the cache, or tell prompt_tokens that answers of earlier turns are no prompt.",
        )


def _weights(mask: Tensor | None, scores: Tensor) -> Tensor:
    """A call's mask as weights (B, S, 1) for its scores (B, S, n)."""
    batch, length, _ = scores.shape
    if mask is None:
        return scores.new_ones(batch, length, 1)
    rows, columns = mask.shape
    if batch % rows:
        raise TopicLoraError(f"The prompt mask has {rows} rows, the batch {batch}.", "Pass one row per example.")
    return _repeated(F.pad(mask.to(scores), (0, length - columns)), scores).unsqueeze(-1)
