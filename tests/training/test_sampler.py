"""Every index once, similar lengths together, tasks not in order, the same order for the same seed and epoch."""

import itertools
import random

from topiclora_cli.training.sampler import LengthBlockSampler

_RNG = random.Random(0)
LENGTHS = [_RNG.randint(10, 90) for _ in range(203)]


def padding(order, size=8):
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    return sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in batches) - sum(LENGTHS)


def test_each_index_once_and_the_short_batch_last():
    order = list(LengthBlockSampler(LENGTHS, 8, seed=0))
    assert sorted(order) == list(range(203))
    assert len(LengthBlockSampler(LENGTHS, 8, seed=0)) == 203


def test_less_padding_than_random():
    order = list(range(203))
    random.Random(1).shuffle(order)
    assert padding(list(LengthBlockSampler(LENGTHS, 8, seed=0))) < 0.5 * padding(order)


def test_batches_are_not_sorted_by_length():
    order = list(LengthBlockSampler(LENGTHS, 8, seed=0))
    means = [sum(LENGTHS[i] for i in order[b : b + 8]) for b in range(0, 192, 8)]
    rises = sum(a < b for a, b in itertools.pairwise(means))
    assert 6 <= rises <= 17


def test_order_follows_seed_and_epoch():
    one, two = LengthBlockSampler(LENGTHS, 8, seed=3), LengthBlockSampler(LENGTHS, 8, seed=3)
    assert list(one) == list(two)
    two.set_epoch(1)
    assert list(one) != list(two)
    assert list(one) != list(LengthBlockSampler(LENGTHS, 8, seed=4))
