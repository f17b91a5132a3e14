"""Batches for the dual loss: left-padded, so that all labels sit in the last few columns.

With the completions flush right, `logits_to_keep` lets the model skip the vocabulary matrix at every prompt position;
on short answers that matrix is a good part of a step. The loss is exactly the one over full logits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE = -100


@dataclass(frozen=True)
class Collator:
    """Turns dataset rows (input_ids, prompt_length and, with a topic graph, prior, confidence) into tensors.

    labels (B, K): token ids of the completions, -100 elsewhere, where K is the longest completion plus the prompt
    token that predicts its first; or (B, S) unless `trim_labels`. With `train_on_prompt` those of the prompt, too, but
    for its first token, so that nothing is left to trim. prompt_mask (B, S) is 1 on prompt tokens.
    """

    pad_token_id: int
    trim_labels: bool = True
    train_on_prompt: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), width)
        input_ids = torch.full(shape, self.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        prompt_mask = torch.zeros(shape)
        labels = torch.full(shape, IGNORE)
        for i, row in enumerate(rows):
            ids = torch.tensor(row["input_ids"])
            start = width - len(ids)
            input_ids[i, start:] = ids
            attention_mask[i, start:] = 1
            prompt_mask[i, start : start + row["prompt_length"]] = 1
            labels[i, start + self._unlabelled(row) :] = ids[self._unlabelled(row) :]
        if self.trim_labels:
            kept = max(len(row["input_ids"]) - self._unlabelled(row) for row in rows) + 1
            labels = labels[:, -kept:]
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            # Models with absolute positions must count from the first real token.
            "position_ids": (attention_mask.cumsum(-1) - 1).clamp_min(0),
            "labels": labels,
            "prompt_mask": prompt_mask,
        }
        if "prior" in rows[0]:
            batch["prior"] = torch.tensor([row["prior"] for row in rows])
            batch["confidence"] = torch.tensor([row["confidence"] for row in rows])
        return batch

    def _unlabelled(self, row: Mapping[str, Any]) -> int:
        # What would predict a prompt's first token is a pad in the shorter rows, and nothing at all in the longest.
        return 1 if self.train_on_prompt else row["prompt_length"]
