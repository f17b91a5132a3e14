"""Topic priors beside the rows of other people's data sets, and through other people's collators."""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from datasets import Dataset

from topiclora_cli.data.examples import asked_by
from topiclora_cli.data.row import ASSISTANT, Turn
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.prior import PriorBatch

PRIOR, CONFIDENCE = "prior", "confidence"
_CHUNK = 256  # prompts that are encoded at once

Row = Mapping[str, Any]


def add_priors(
    dataset: Any, prior: Callable[[Sequence[str]], PriorBatch], *, prompt: Callable[[Row], str] | None = None
) -> Any:
    """A data set, or a stream of one, with two more columns: each prompt's prior over experts, and its confidence.

    prior: a TopicPrior, such as topiclora_cli.load_prior(run). prompt: what is asked in a row; by default its `prompt`,
    as text or as messages, or of `messages` what stands before the first answer. Raises TopicLoraError for a row in
    which that cannot be told.
    """
    asked = prompt or prompt_of
    if not isinstance(dataset, Dataset):

        def more(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            return _columns(prior([asked(row) for row in rows]))

        return dataset.map(more, batched=True, batch_size=_CHUNK)
    prompts = [asked(row) for row in dataset]
    found = [_columns(prior(prompts[start : start + _CHUNK])) for start in range(0, len(prompts), _CHUNK)]
    for name in (PRIOR, CONFIDENCE):
        dataset = dataset.add_column(name, [value for part in found for value in part[name]])
    return dataset


def prompt_of(row: Row) -> str:
    """What is asked in a row of TRL's formats, as text; of messages as our own trainer reads a conversation."""
    if isinstance(row.get("prompt"), str):
        return str(row["prompt"])
    messages = row.get("prompt") or row.get("messages")
    if not isinstance(messages, list):
        raise TopicLoraError(
            f"A row has neither prompt nor messages, but {', '.join(row)}.",
            "Say what is asked: add_priors(..., prompt=lambda row: row[...]).",
        )
    return asked_by([Turn(message["role"], message["content"]) for message in takewhile(_asks, messages)])


class WithPriors:
    """A collator that leaves a row's prior to nobody else: (B, E) and (B,) beside what `collate` makes of the rest."""

    def __init__(self, collate: Callable[..., Any]) -> None:
        self.collate = collate

    def __call__(self, rows: list[Row]) -> Any:
        own = (PRIOR, CONFIDENCE)
        batch = self.collate([{key: value for key, value in row.items() if key not in own} for row in rows])
        if not isinstance(batch, Mapping):  # rows as they are, which the trainer makes a batch of
            return rows
        return {**batch, **stacked(rows)} if PRIOR in rows[0] else batch


def stacked(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The priors (B, E) and confidences (B,) of rows."""
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in (PRIOR, CONFIDENCE)}


def _columns(batch: PriorBatch) -> dict[str, list[Any]]:
    return {PRIOR: batch.prior.tolist(), CONFIDENCE: batch.confidence.tolist()}


def _asks(message: Mapping[str, Any]) -> bool:
    return message["role"] != ASSISTANT
