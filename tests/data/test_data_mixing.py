"""Several sources as one list: proportions, order and the end of a source."""

from collections import Counter

import pytest

from topiclora_cli.data import Row
from topiclora_cli.data.mixing import mix


def group(number, size):
    return [Row(f"{number}/{i}", " x", source=number) for i in range(size)]


def shares(rows):
    counts = Counter(row.source for row in rows)
    return [counts[number] / len(rows) for number in range(max(counts) + 1)]


def test_one_source_keeps_its_order():
    assert mix([group(0, 5)], [3.0], seed=1) == group(0, 5)


def test_without_weights_every_example_is_used_once_in_random_order():
    rows = mix([group(0, 300), group(1, 100)], None, seed=0)
    assert sorted(row.prompt for row in rows) == sorted(row.prompt for row in group(0, 300) + group(1, 100))
    assert shares(rows[:200]) == pytest.approx([0.75, 0.25], abs=0.1)


def test_weights_are_probabilities_and_the_first_exhausted_ends_it():
    rows = mix([group(0, 1000), group(1, 1000)], [3, 1], seed=0)
    assert shares(rows) == pytest.approx([0.75, 0.25], abs=0.03)
    assert len(set(rows)) == len(rows)
    assert max(Counter(row.source for row in rows).values()) == 1000


def test_all_exhausted_repeats_the_shorter():
    rows = mix([group(0, 20), group(1, 200)], [1, 1], seed=0, stopping_strategy="all_exhausted")
    counts = Counter(rows)
    assert {row.prompt for row in counts} == {row.prompt for row in group(0, 20) + group(1, 200)}
    assert shares(rows) == pytest.approx([0.5, 0.5], abs=0.1)
    assert max(counts[row] for row in group(0, 20)) > 5


@pytest.mark.parametrize("weights", [None, [2, 1]])
def test_the_seed_fixes_the_mixture(weights):
    groups = [group(0, 50), group(1, 50)]
    assert mix(groups, weights, seed=3) == mix(groups, weights, seed=3)
    assert mix(groups, weights, seed=3) != mix(groups, weights, seed=4)
    # A sorted data set would otherwise begin with its first task.
    assert [row for row in mix(groups, weights, seed=3) if row.source == 0] != group(0, 50)
