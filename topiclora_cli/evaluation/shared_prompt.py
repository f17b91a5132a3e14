"""The choices of a question, scored with its prompt run once: they go on from its keys and values.

Prompts of equal length go together, so that nothing is padded but the ends of continuations, which nothing sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Scored = tuple[float, bool]  # log-likelihood, and whether it is what greedy decoding writes


@dataclass(frozen=True)
class SharedPrompt:
    """A prompt's tokens, and its continuations by the number of the request."""

    tokens: tuple[int, ...]
    continuations: dict[int, list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the longest continuation."""
        return max(map(len, self.continuations.values()))


def shared_prompts(requests: Sequence[tuple[list[int], list[int]]], *, max_length: int) -> list[SharedPrompt]:
    """Prompts with several continuations among requests of (context, continuation), as far as they fit the model."""
    groups: dict[tuple[int, ...], dict[int, list[int]]] = {}
    for index, (context, continuation) in enumerate(requests):
        groups.setdefault(tuple(context), {})[index] = continuation
    prompts = [SharedPrompt(tokens, found) for tokens, found in groups.items() if tokens and len(found) > 1]
    return [prompt for prompt in prompts if len(prompt.tokens) + prompt.longest <= max_length]


def in_batches(prompts: Sequence[SharedPrompt], size: int) -> Iterator[list[SharedPrompt]]:
    """Prompts of equal length together, with no more logits at once than `size` prompts with a continuation have."""
    batch: list[SharedPrompt] = []
    for prompt in sorted(prompts, key=lambda each: (-len(each.tokens), each.longest)):
        wider = [*batch, prompt]
        rows = sum(len(each.continuations) for each in wider)
        logits = rows * max(each.longest for each in wider)
        longer = batch and len(batch[0].tokens) != len(prompt.tokens)
        if batch and (longer or logits > size * (len(prompt.tokens) + prompt.longest)):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def goes_on(cache: Any) -> bool:
    """Whether rows of a cache can be multiplied: plain keys and values, and nothing else that somebody keeps on it."""
    return (
        type(cache) is DynamicCache
        and all(type(layer) is DynamicLayer for layer in cache.layers)
        and vars(cache).keys() <= vars(DynamicCache()).keys()
    )


def continued(batch: Sequence[SharedPrompt]) -> tuple[Tensor, Tensor]:
    """For every continuation of a batch, in order, the row of its prompt (R,) and its tokens but the last (R, L - 1).

    Shorter ones are filled up with zeros.
    """
    rows = [row for row, prompt in enumerate(batch) for _ in prompt.continuations]
    length = max(prompt.longest for prompt in batch) - 1
    starts = [found[:-1] for prompt in batch for found in prompt.continuations.values()]
    return torch.tensor(rows), torch.tensor([start + [0] * (length - len(start)) for start in starts])


def scored(batch: Sequence[SharedPrompt], first: Tensor, following: Tensor | None) -> dict[int, Scored]:
    """The score of every request, by log-probabilities after the prompts (B, V) and in continuations (R, L - 1, V)."""
    scores: dict[int, Scored] = {}
    place = 0
    for row, prompt in enumerate(batch):
        for index, tokens in prompt.continuations.items():
            steps = first[row][None]
            if following is not None and len(tokens) > 1:
                steps = torch.cat([steps, following[place, : len(tokens) - 1]])
            wanted = torch.tensor(tokens, device=steps.device)
            total = steps.gather(1, wanted[:, None]).sum()
            scores[index] = float(total), bool((steps.argmax(-1) == wanted).all())
            place += 1
    return scores
