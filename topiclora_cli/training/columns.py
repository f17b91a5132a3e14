"""Encoded examples and their priors in the columns that the collator reads."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from torch import Tensor

from topiclora_cli.data import Encoded

Priors = tuple[Tensor, Tensor]  # pi (n, E) and confidence (n,)


def make_dataset(encoded: Sequence[Encoded], priors: Priors | None) -> Dataset:
    """A table of input_ids, prompt_length and length and, where there are priors, of prior and confidence."""
    columns: dict[str, list[Any]] = {
        "input_ids": [example.input_ids for example in encoded],
        "prompt_length": [example.prompt_length for example in encoded],
        "length": [len(example.input_ids) for example in encoded],
    }
    if priors is not None:
        columns["prior"], columns["confidence"] = priors[0].tolist(), priors[1].tolist()
    return Dataset.from_dict(columns)
