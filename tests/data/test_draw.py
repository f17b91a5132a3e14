"""Some of many examples: seeded, and of every kind its share, however the data is sorted."""

from collections import Counter

import pytest

from topiclora_cli.data import Row, draw


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
