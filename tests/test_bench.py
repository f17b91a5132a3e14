"""The bench's instruments: what they count and what they leave out."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.bench import moe
from tests.bench.saved_bytes import saved_bytes
from tests.bench.timing import interleave
from tests.bench.training import random_tokens


def test_saved_bytes_counts_each_storage_once_and_no_weights():
    linear = nn.Linear(10, 20, bias=False)
    x = torch.randn(5, 10, requires_grad=True)
    inputs, outputs = 5 * 10 * 4, 5 * 20 * 4
    assert saved_bytes(lambda: linear(x), linear.parameters()) == inputs
    assert saved_bytes(lambda: linear(x).relu(), linear.parameters()) == inputs + outputs
    assert saved_bytes(lambda: (x * x[:, :1]).sum() + linear(x).sum(), linear.parameters()) == inputs


def test_saved_bytes_is_zero_without_a_graph():
    linear = nn.Linear(10, 20).requires_grad_(False)
    assert saved_bytes(lambda: linear(torch.randn(5, 10)), ()) == 0


def test_a_stalled_round_is_left_out_and_made_up_for():
    warm_up = [5.0]
    anchor, slower = iter([*warm_up, 1.0, 1.2, 9.0, 1.1]), iter([*warm_up, 2.0, 2.4, 2.2, 2.2])
    timings = interleave({"anchor": lambda: next(anchor), "slower": lambda: next(slower)}, "anchor", pairs=3)
    assert timings["slower"].ratio == pytest.approx(2.0)
    assert timings["slower"].pairs == 3
    assert timings["slower"].runs == [2.0, 2.4, 2.2, 2.2]


def test_order_changes_from_round_to_round():
    order: list[str] = []

    def case(name: str):
        return lambda: order.append(name) or 1.0

    interleave({name: case(name) for name in "abc"}, "a", pairs=6)
    rounds = ["".join(order[start : start + 3]) for start in range(3, len(order), 3)]
    assert len(set(rounds)) == 6


def test_adapters_beside_the_experts_keep_half_of_what_lora_on_them_does():
    tokens = random_tokens(moe.VOCABULARY, moe.BATCH, moe.LENGTH, torch.device("cpu"))
    candidates = moe.contestants(moe.SIZES[0], torch.device("cpu"))
    kept = {name: saved_bytes(partial(one.loss, tokens), one.weights) for name, one in candidates.items()}
    assert kept[moe.FUSED_LORA] > 2 * kept[moe.ROUTED]
    assert kept[moe.ROUTED] < 1.08 * kept[moe.FROZEN]
    assert kept[moe.EMBEDDED] < 1.08 * kept[moe.FROZEN]
