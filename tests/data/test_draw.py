"""Some of many examples: seeded, and of every kind its share, however the data is sorted."""

from collections import Counter

import pytest

from topiclora_cli.data import Row, draw, load_data
from topiclora_cli.data.draw import share_of
from topiclora_cli.recipe.data import DataSection


def rows(**sizes):
    return [Row(f"{topic} {n}", " x", (topic,)) for topic, size in sizes.items() for n in range(size)]


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_has_its_share_of_sorted_data(seed):
    drawn = draw(rows(maths=500, law=300, music=200), 10, seed=seed)
    assert Counter(row.topics for row in drawn) == {("maths",): 5, ("law",): 3, ("music",): 2}
    assert drawn == sorted(drawn, key=lambda row: [("maths",), ("law",), ("music",)].index(row.topics))


def test_sources_are_kinds_too():
    sorted_by_source = [Row(str(n), " x", source=n // 50) for n in range(200)]
    assert Counter(row.source for row in draw(sorted_by_source, 8, seed=0)) == dict.fromkeys(range(4), 2)


def test_a_draw_is_seeded_and_repeats_nothing():
    data = rows(maths=40, law=60)
    assert draw(data, 20, seed=1) == draw(data, 20, seed=1) != draw(data, 20, seed=2)
    assert len({row.prompt for row in draw(data, 99, seed=0)}) == 99
    assert draw(data, 100, seed=0) == draw(data, 400, seed=0) == data


def test_a_smaller_share_is_part_of_a_larger_one_and_has_of_every_kind_its_part():
    data = rows(maths=320, law=160, music=32)
    shares = {each: share_of(data, 1 / each) for each in (32, 16, 8, 4, 2, 1)}
    assert [len(some) for some in shares.values()] == [16, 32, 64, 128, 256, 512]
    for smaller, larger in zip((32, 16, 8, 4, 2), (16, 8, 4, 2, 1), strict=True):
        assert set(shares[smaller]) <= set(shares[larger])
        assert shares[smaller] == [row for row in data if row in set(shares[smaller])]
    counts = Counter(row.topics[0] for row in shares[16])
    assert counts == {"maths": 20, "law": 10, "music": 2}
    assert len(share_of(data, 1e-9)) == 1


def test_a_fraction_is_of_what_is_trained_on_and_leaves_what_is_held_out():
    whole = load_data(DataSection(per_family=8, validation=20), seed=0)
    half = load_data(DataSection(per_family=8, validation=20, fraction=0.5), seed=0)
    assert half.validation == whole.validation
    assert len(half.train) == round(len(whole.train) / 2) == len(whole.train) - half.counts[0].surplus
    assert set(half.train) < set(whole.train)
    with pytest.raises(ValueError, match="a stream has no size to take a fraction of"):
        DataSection(streaming=True, fraction=0.5)
