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
class Continuation:
    """index: the number of its request; row: that of its prompt in the batch."""

    index: int
    row: int
    tokens: list[int]


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
    """Prompts with several continuations among requests of (context, continuation), as far as they fit the model.

    One of a single token, as texts without a prompt have, is not worth it. One with a continuation of no token is left
    out: lm-eval refuses that, where a sum over nothing would be the best.
    """
    groups: dict[tuple[int, ...], dict[int, list[int]]] = {}
    for index, (context, continuation) in enumerate(requests):
        groups.setdefault(tuple(context), {})[index] = continuation
    prompts = [SharedPrompt(tokens, found) for tokens, found in groups.items() if len(tokens) > 1 < len(found)]
    return [
        prompt
        for prompt in prompts
        if all(prompt.continuations.values()) and len(prompt.tokens) + prompt.longest <= max_length
    ]


def in_batches(prompts: Sequence[SharedPrompt], size: int) -> Iterator[list[SharedPrompt]]:
    """At most `size` prompts together, all of one length."""
    batch: list[SharedPrompt] = []
    for prompt in sorted(prompts, key=lambda each: (-len(each.tokens), each.longest)):
        if batch and (len(batch) == size or len(batch[0].tokens) != len(prompt.tokens)):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def continuations(batch: Sequence[SharedPrompt], size: int) -> Iterator[list[Continuation]]:
    """The continuations of a batch of prompts in order, at most `size` together."""
    found = [
        Continuation(index, row, tokens)
        for row, prompt in enumerate(batch)
        for index, tokens in prompt.continuations.items()
    ]
    for start in range(0, len(found), size):
        yield found[start : start + size]


def goes_on(cache: Any) -> bool:
    """Whether rows of a cache can be multiplied: plain keys and values, and nothing else that somebody keeps on it."""
    return (
        type(cache) is DynamicCache
        and all(type(layer) is DynamicLayer and layer.get_seq_length() for layer in cache.layers)
        and vars(cache).keys() <= vars(DynamicCache()).keys()
    )


def cache_of(part: Sequence[Continuation], prompts: Any) -> DynamicCache:
    """What the prompts' cache has for each continuation; the prompts' own stays as it is."""
    cache = DynamicCache()
    for number, layer in enumerate(prompts.layers):
        rows = torch.tensor([each.row for each in part], device=layer.keys.device)
        cache.update(layer.keys[rows], layer.values[rows], number)
    return cache


def starts(part: Sequence[Continuation]) -> Tensor:
    """The tokens but the last of each continuation, (R, L - 1); shorter ones are filled up with zeros."""
    length = max(len(each.tokens) for each in part) - 1
    return torch.tensor([each.tokens[:-1] + [0] * (length + 1 - len(each.tokens)) for each in part])


def scored(part: Sequence[Continuation], first: Tensor, following: Tensor | None) -> dict[int, Scored]:
    """The score of every request, by log-probabilities after the prompts (B, V) and in continuations (R, L - 1, V)."""
    scores: dict[int, Scored] = {}
    for place, each in enumerate(part):
        steps = first[each.row][None]
        if following is not None and len(each.tokens) > 1:
            steps = torch.cat([steps, following[place, : len(each.tokens) - 1]])
        wanted = torch.tensor(each.tokens, device=steps.device)
        total = steps.gather(1, wanted[:, None]).sum()
        scores[each.index] = float(total), bool((steps.argmax(-1) == wanted).all())
    return scores
