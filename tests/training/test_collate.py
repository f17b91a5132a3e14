"""Batches: left padding, trimmed labels, and the loss they give."""

import pytest
import torch

from topiclora_cli.training.collate import Collator

ROWS = [
    {"input_ids": [11, 12, 13, 14, 1], "prompt_length": 3, "prior": [0.9, 0.1], "confidence": 0.5},
    {"input_ids": [21, 22, 1], "prompt_length": 2, "prior": [0.2, 0.8], "confidence": 0.1},
]


def test_shapes_and_masks():
    batch = Collator(pad_token_id=2)(ROWS)
    assert batch["input_ids"].tolist() == [[11, 12, 13, 14, 1], [2, 2, 21, 22, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]
    assert batch["prompt_mask"].tolist() == [[1, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 14, 1], [-100, -100, -100, -100, 1]]
    assert batch["prior"].tolist() == torch.tensor([[0.9, 0.1], [0.2, 0.8]]).tolist()


def test_logits_are_selected_where_a_labelled_token_comes_next():
    batch = Collator(pad_token_id=2, select_logits=True)(ROWS)
    assert batch["logits_to_keep"].tolist() == [[False, False, True, True, False], [False, False, False, True, False]]
    assert batch["shift_labels"].tolist() == [14, 1, 1]


def test_labels_on_the_prompt_leave_out_its_first_token_and_change_nothing_else():
    batch = Collator(pad_token_id=2, train_on_prompt=True)(ROWS)
    assert batch["labels"].tolist() == [[-100, 12, 13, 14, 1], [-100, -100, -100, 22, 1]]
    plain = Collator(pad_token_id=2)(ROWS)
    for name in set(batch) - {"labels"}:
        assert torch.equal(batch[name], plain[name])


def test_the_loss_on_the_prompt_does_not_depend_on_the_padding(tiny_model):
    def loss(rows):
        batch = Collator(pad_token_id=2, train_on_prompt=True)(rows)
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids", "labels")}
        return tiny_model(**inputs).loss.item()

    together, first, second = loss(ROWS), loss(ROWS[:1]), loss(ROWS[1:])
    assert together == pytest.approx((4 * first + 2 * second) / 6, abs=1e-5)


def test_rows_without_prior_make_a_plain_batch():
    rows = [{k: row[k] for k in ("input_ids", "prompt_length")} for row in ROWS]
    batch = Collator(pad_token_id=2)(rows)
    assert "prior" not in batch
    assert batch["prompt_mask"].tolist() == [[1, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
