"""Encoded examples and their priors in the columns that the collator reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import Tensor

from topiclora_cli.data import Encoded

Priors = tuple[Tensor, Tensor]  # pi (n, E) and confidence (n,)


@dataclass(frozen=True)
class Examples:
    """Examples with the priors of their prompts, in one order; None to train without the KL."""

    encoded: Sequence[Encoded]
    priors: Priors | None = None


def make_dataset(examples: Examples, *, with_prompt: bool = False) -> Dataset:
    """A table of input_ids, prompt_length and length and, where there are any, of weights, prior and confidence.

    with_prompt: whether prompts are trained on, too.
    """
    encoded, priors = examples.encoded, examples.priors
    columns: dict[str, list[Any]] = {
        "input_ids": [example.input_ids for example in encoded],
        "prompt_length": [example.prompt_length for example in encoded],
        "length": [len(example.input_ids) for example in encoded],
    }
    weights = [example.token_weights(with_prompt=with_prompt) for example in encoded]
    if any(each is not None for each in weights):
        columns["weights"] = weights
    if priors is not None:
        columns["prior"], columns["confidence"] = priors[0].tolist(), priors[1].tolist()
    return Dataset.from_dict(columns)


def weighs(encoded: Sequence[Encoded], *, with_prompt: bool = False) -> bool:
    """Whether tokens that are trained on differ in weight, or have another than 1, or some example has none of them.

    The mean over a step without a token to train on is the weighted one's, 0.
    """
    weights = (example.token_weights(with_prompt=with_prompt) for example in encoded)
    return any(not any(each[1:]) or any(weight not in (0, 1) for weight in each) for each in weights if each)
