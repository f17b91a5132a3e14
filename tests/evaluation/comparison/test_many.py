"""Many sides beside one baseline say what each would by itself, and can still be told apart after Holm's correction."""

import numpy as np
import pytest

from topiclora_cli.evaluation.comparison.intervals import draw_questions, drawn_means
from topiclora_cli.evaluation.comparison.many import many_means, significance_of_sides, task_weights
from topiclora_cli.evaluation.comparison.significance import BOOTSTRAP, PERMUTATION, holm, of_differences, of_draws

SIZES = (7, 30, 1)


def sides(seeds, *, count=3, sizes=SIZES):
    random = np.random.default_rng(seeds)
    return [
        [random.integers(-1, 2, (seeds, size)).astype(float) + 0.1 * number for size in sizes]
        for number in range(count)
    ]


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("by_task", [True, False])
def test_every_side_is_drawn_as_it_would_be_alone(seeds, by_task):
    every = sides(seeds)
    weights = task_weights(every[0], by_task=by_task)
    (together,) = many_means(every, [weights])
    for side, column in zip(every, together.T, strict=True):
        assert np.allclose(column, drawn_means(list(draw_questions(side)), weights), atol=1e-12)


@pytest.mark.parametrize("seeds", [2, 3])
def test_several_seeds_are_seldom_told_apart_where_they_are_alike(seeds):
    """Two equally good sides whose seeds differ as much as their questions do; 5 in 100 are to be told apart."""
    random, alike = np.random.default_rng(seeds), []
    for _ in range(300):
        questions = [random.normal(0, 1, (1, 30)) for _ in range(8)]
        one, two = (
            [own + shift + random.normal(0, 0.8, (seeds, 30)) > 0 for own in questions]
            for shift in random.normal(0, 0.15, (2, seeds, 1))
        )
        alike.append([a.astype(float) - b for a, b in zip(one, two, strict=True)])
    found = significance_of_sides(alike, family=1)
    assert {each.test for each in found} == {BOOTSTRAP}
    assert np.mean([each.p < 0.05 for each in found]) < 0.08


def test_seeds_that_agree_on_a_large_difference_are_told_apart():
    random = np.random.default_rng(0)
    side = [(random.random((3, 60)) < 0.5).astype(float) for _ in range(4)]
    (found,) = significance_of_sides([side], family=1)
    assert found.p < 0.02


def test_one_seed_with_few_differences_is_tested_exactly():
    values = np.zeros((1, 40))
    values[0, :6] = 1  # of 64 ways to sign six, the one seen and its opposite are the farthest
    (found,) = significance_of_sides([[values]], family=1)
    assert found.p == pytest.approx(2 / 64)
    assert found.test == PERMUTATION
    assert found.p == pytest.approx(of_differences(values[0]).p)


def test_one_seed_with_many_differences_is_tested_by_flipping_signs():
    random = np.random.default_rng(5)
    every = [[random.choice([-1.0, 0.0, 1.0], (1, 200), p=[0.3, 0.3, 0.4])] for _ in range(3)]
    for side, found in zip(every, significance_of_sides(every, family=3), strict=True):
        assert found.p == pytest.approx(of_differences(side[0][0]).p, abs=0.03)


def test_no_difference_at_all_is_no_finding():
    for seeds in (1, 3):
        (found,) = significance_of_sides([[np.zeros((seeds, 20))]], family=1)
        assert found.p == 1.0


def test_a_clear_difference_stays_clear_among_two_hundred():
    random = np.random.default_rng(0)
    for seeds in (1, 3):
        every = [[random.integers(-1, 2, (seeds, 60)).astype(float)] for _ in range(20)]
        every[7] = [np.tile(np.arange(60) % 10 > 0, (seeds, 1)).astype(float)]  # all seeds alike
        adjusted = holm([*(found.p for found in significance_of_sides(every, family=200)), *[1.0] * 180])
        assert adjusted[7] < 0.05
        assert sum(p < 0.05 for p in adjusted) == 1


def test_a_side_that_is_near_the_baseline_has_the_p_of_its_interval_s_draws_and_a_far_one_that_of_more():
    random = np.random.default_rng(1)
    near, far = (random.standard_normal((3, 200)) + shift for shift in (0.02, 0.6))
    found = significance_of_sides([[near], [far]], family=200)
    for each, side, draws in zip(found, (near, far), (4000, 40_000), strict=True):
        (alone,) = many_means([[side]], [np.ones(1)], draws=draws)
        assert each == of_draws(alone[:, 0])
    assert found[0].p > 0.05 > found[1].p
