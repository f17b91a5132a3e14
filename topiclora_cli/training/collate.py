"""Batches for the dual loss: left-padded rows of one example each, or packed rows of several.

Logits are wanted only where a labelled token is predicted. Told where that is, the model skips the vocabulary matrix
everywhere else; on short answers that matrix is a good part of a step. The loss is exactly the one over full logits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topiclora_cli.training.packing import pack

IGNORE = -100


@dataclass(frozen=True)
class Collator:
    """Turns dataset rows (input_ids, prompt_length and, where there are any, weights, prior, confidence) into tensors.

    In rows (R, W): input_ids, position_ids from 0 for each example, labels, and, unless packed, attention_mask. labels:
    token ids of the completions, with `train_on_prompt` of the prompts, too, -100 elsewhere and at an example's first
    token, which nothing predicts; of a row with weights of tokens, where these are above 0. With `weighted` also
    label_weights, those of the labels. With `select_logits` also logits_to_keep (R, W), true where a labelled token
    comes next, and shift_labels (n,), those tokens. By example (B, S): prompt_mask, 1 on prompt tokens, and, if packed,
    places (Batch says which). Unpacked, R is B and W is S.
    """

    pad_token_id: int
    select_logits: bool = False
    train_on_prompt: bool = False
    packed: bool = False
    weighted: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)
        layout = pack(lengths) if self.packed else [[index] for index in range(len(rows))]
        width = max(sum(lengths[index] for index in members) for members in layout)
        input_ids = torch.full((len(layout), width), self.pad_token_id)
        labels = torch.full_like(input_ids, IGNORE)
        label_weights = torch.zeros(labels.shape)
        # A pad counts as an example of its own, of one token.
        position_ids = torch.zeros_like(input_ids)
        prompt_mask = torch.zeros(len(rows), longest)
        places = torch.full((len(rows), longest), -1)
        for row, members in enumerate(layout):
            start = width - sum(lengths[index] for index in members)
            for index in members:
                ids, length = torch.tensor(rows[index]["input_ids"]), lengths[index]
                prompt = rows[index]["prompt_length"]
                own = slice(start, start + length)
                weights = self._weights(rows[index], length)
                input_ids[row, own], label_weights[row, own] = ids, weights
                labels[row, own] = torch.where(weights > 0, ids, IGNORE)
                position_ids[row, own] = torch.arange(length)
                prompt_mask[index, longest - length :][:prompt] = 1
                places[index, longest - length :] = row * width + start + torch.arange(length)
                start += length
        batch = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels, "prompt_mask": prompt_mask}
        if self.packed:
            batch["places"] = places
        else:
            batch["attention_mask"] = (places >= 0).long()
        if self.weighted:
            batch["label_weights"] = label_weights
        if self.select_logits:
            batch["logits_to_keep"], batch["shift_labels"] = next_labels(labels)
        if "prior" in rows[0]:
            batch["prior"] = torch.tensor([row["prior"] for row in rows])
            batch["confidence"] = torch.tensor([row["confidence"] for row in rows])
        return batch

    def _weights(self, row: Mapping[str, Any], length: int) -> Tensor:
        """The weight of each of an example's tokens as a label, 0 where it is none."""
        if row.get("weights") is not None:
            weights = torch.tensor(row["weights"], dtype=torch.float32)
        else:
            weights = torch.ones(length)
            weights[: 0 if self.train_on_prompt else row["prompt_length"]] = 0
        weights[0] = 0
        return weights


def next_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where in labels (R, W) a labelled token comes next, and these tokens (n,), row after row."""
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
    wanted = following != IGNORE
    return wanted, following[wanted]
