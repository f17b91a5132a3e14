"""The choices of a question, scored with its prompt run once: they go on from its keys and values.

So do questions from what all of them begin with. Prompts of a batch that differ in length are filled up at their ends,
which nothing before them sees, and continuations that go together follow prompts of one length: nothing is masked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from topiclora_cli.evaluation.prefixes import Group, by_prefix

LEAST_FILLED = 0.75  # of the longest prompt of a batch, behind what all begin with

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


class PromptBatch(NamedTuple):
    """Prompts that run together, the longest first; prefix: what all of them begin with and runs before, if any."""

    prefix: tuple[int, ...]
    prompts: list[SharedPrompt]


def shared_prompts(requests: Sequence[tuple[list[int], list[int]]], *, max_length: int) -> list[SharedPrompt]:
    """The prompts among requests of (context, continuation), as far as they fit the model.

    One of a single token, as texts without a prompt have, is not worth it. One with a continuation of no token is left
    out: lm-eval refuses that, where a sum over nothing would be the best.
    """
    groups: dict[tuple[int, ...], dict[int, list[int]]] = {}
    for index, (context, continuation) in enumerate(requests):
        groups.setdefault(tuple(context), {})[index] = continuation
    prompts = [SharedPrompt(tokens, found) for tokens, found in groups.items() if len(tokens) > 1]
    return [
        prompt
        for prompt in prompts
        if all(prompt.continuations.values()) and len(prompt.tokens) + prompt.longest <= max_length
    ]


def in_batches(prompts: Sequence[SharedPrompt], size: int, *, prefixes: bool) -> Iterator[PromptBatch]:
    """At most `size` prompts together, of about one length; prefixes: whether to look for what prompts begin with.

    A prompt that shares neither its beginning nor itself, by several continuations, is in none.
    """
    tokens = [prompt.tokens for prompt in prompts]
    for length, members in by_prefix(tokens) if prefixes else [Group(0, list(range(len(prompts))))]:
        batch: list[SharedPrompt] = []
        group = [prompts[member] for member in members if length or len(prompts[member].continuations) > 1]
        for prompt in sorted(group, key=lambda each: (-len(each.tokens), each.longest)):
            if batch and (
                len(batch) == size or len(prompt.tokens) - length < LEAST_FILLED * (len(batch[0].tokens) - length)
            ):
                yield PromptBatch(batch[0].tokens[:length], batch)
                batch = []
            batch.append(prompt)
        if batch:
            yield PromptBatch(batch[0].tokens[:length], batch)


def continuations(batch: Sequence[SharedPrompt], size: int) -> Iterator[list[Continuation]]:
    """The continuations of a batch of prompts: those of one token, which the prompts themselves score; then others
    of prompts of one length in order, at most `size` together."""
    found = [
        Continuation(index, row, tokens)
        for row, prompt in enumerate(batch)
        for index, tokens in prompt.continuations.items()
    ]
    if short := [each for each in found if len(each.tokens) == 1]:
        yield short
    longer = [each for each in found if len(each.tokens) > 1]
    for _, alike in groupby(longer, lambda each: len(batch[each.row].tokens)):
        part = list(alike)
        for start in range(0, len(part), size):
            yield part[start : start + size]


def behind(batch: PromptBatch) -> tuple[Tensor, list[int]]:
    """What the prompts have behind their prefix (B, R), filled up with zeros, and the place of the last of each."""
    rests = [prompt.tokens[len(batch.prefix) :] for prompt in batch.prompts]
    length = max(map(len, rests))
    tokens = torch.tensor([[*rest, *[0] * (length - len(rest))] for rest in rests])
    return tokens, [len(rest) - 1 for rest in rests]


def goes_on(cache: Any) -> bool:
    """Whether rows of a cache can be multiplied: plain keys and values, and nothing else that somebody keeps on it."""
    return (
        type(cache) is DynamicCache
        and all(type(layer) is DynamicLayer and layer.get_seq_length() for layer in cache.layers)
        and vars(cache).keys() <= vars(DynamicCache()).keys()
    )


def cache_of(rows: Sequence[int], prompts: Any, *, length: int) -> DynamicCache:
    """The first `length` tokens of some rows of the prompts' cache, which stays as it is itself."""
    cache = DynamicCache()
    for number, layer in enumerate(prompts.layers):
        chosen = torch.tensor(rows, device=layer.keys.device)
        cache.update(layer.keys[chosen, :, :length], layer.values[chosen, :, :length], number)
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
