"""Intervals of paired differences hold the true difference as often as they say, over questions and seeds."""

import numpy as np
import pytest
from scipy.stats import bootstrap, t, ttest_1samp

from topiclora_cli.evaluation.comparison.drawing import strays
from topiclora_cli.evaluation.comparison.intervals import draw_questions, drawn_means, intervals, paired_interval
from topiclora_cli.evaluation.comparison.significance import of_draws

SIZES = (12, 40, 25, 30)


def study(random, *, seeds, question, seed, rest, true=0.1):
    """Differences (seeds, questions) of each task around the true one."""
    shared = seed * random.standard_normal((seeds, 1))
    return [
        true + shared + question * random.standard_normal((1, count)) + rest * random.standard_normal((seeds, count))
        for count in SIZES
    ]


@pytest.mark.parametrize(
    ("seeds", "question", "seed", "rest", "by_task"),
    [
        (2, 0.3, 0.0, 0.6, True),
        (3, 0.6, 0.02, 0.4, True),
        (3, 0.3, 0.03, 0.6, False),
        (3, 0.4, 0.1, 0.3, True),
        (1, 0.6, 0.0, 0.3, False),
    ],
)
def test_the_interval_holds_the_truth_in_95_of_100_studies(seeds, question, seed, rest, by_task):
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        found = paired_interval(
            study(random, seeds=seeds, question=question, seed=seed, rest=rest), by_task=by_task, draws=300
        )
        held += found.low <= 0.1 <= found.high
    # Of 200 studies, 0.95 has an error of 0.015.
    assert 0.90 <= held / 200 <= 0.99


def test_questions_are_drawn_as_scipy_draws_them_and_ends_are_numpy_s_quantiles():
    values = np.random.default_rng(0).standard_normal((30, 2))
    drawn = strays([values], [np.random.default_rng(5)], 700)
    for column, own in zip(drawn.T, values.T, strict=True):
        found = bootstrap((own,), np.mean, n_resamples=700, method="percentile", rng=np.random.default_rng(5))
        alone = (found.bootstrap_distribution - own.mean()) * np.sqrt(30 / 29)
        assert np.allclose(column, alone, atol=1e-12)
        (ends,) = intervals(np.concatenate([[0.0], alone])[:, None])
        assert (ends.low, ends.high) == pytest.approx(np.quantile(alone, (0.025, 0.975)), abs=1e-12)


def test_the_mean_is_over_tasks_or_over_questions():
    tasks = [np.full((2, 1), 1.0), np.full((2, 3), 0.0)]
    assert paired_interval(tasks, by_task=True).mean == pytest.approx(0.5)
    assert paired_interval(tasks, by_task=False).mean == pytest.approx(0.25)
    # Nothing differs within a task, so nothing is uncertain.
    found = paired_interval(tasks, by_task=True)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_seeds_that_disagree_widen_the_interval():
    questions = np.random.default_rng(0).standard_normal((1, 50))
    same = paired_interval([np.repeat(questions, 3, 0)], by_task=True)
    apart = paired_interval([questions + np.array([[-0.5], [0.0], [0.5]])], by_task=True)
    assert apart.high - apart.low > 1.5 * (same.high - same.low)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("tasks", [1, 2, 4, 8, 16])
def test_over_seeds_alone_ends_and_p_are_those_of_student_s_t_and_of_the_other_side_mirrored(seeds, tasks):
    """A single question has nothing to draw, which leaves seeds."""
    values = 0.3 + np.random.default_rng(seeds).standard_normal(seeds)
    side, other = ([sign * values[:, None]] * tasks for sign in (1, -1))
    found, mirrored = paired_interval(side, by_task=True), paired_interval(other, by_task=True)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((found.low, found.high), rel=1e-6)
    reach = t.ppf(0.975, seeds - 1) * values.std(ddof=1) / np.sqrt(seeds)
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((reach, reach), rel=0.01)
    tested = of_draws(drawn_means(list(draw_questions(side)), np.full(tasks, 1 / tasks)))
    assert tested.p == pytest.approx(ttest_1samp(values, 0).pvalue, abs=0.001)


def test_seeds_whose_means_happen_to_agree_leave_an_interval_as_wide_as_that_over_questions():
    one, two = np.zeros((2, 20))
    one[:2], two[2:4] = 1.0, 1.0
    together = paired_interval([np.stack([one, two])], by_task=True)
    alone = paired_interval([(one + two)[None] / 2], by_task=True)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert together.high - together.low > 0.05


def test_what_seeds_do_to_single_questions_counts_among_seeds():
    random = np.random.default_rng(0)
    questions = random.standard_normal((1, 60))
    seeds = [questions + random.standard_normal((2, 60)) for _ in range(200)]
    found = [paired_interval([each], by_task=True, draws=400) for each in seeds]
    alone = [paired_interval([each.mean(0, keepdims=True)], by_task=True, draws=400) for each in seeds]
    widths = [[each.high - each.low for each in part] for part in (found, alone)]
    # With one degree of freedom it is hardly known, and so an interval is wide more often than not.
    assert np.median(widths[0]) > 1.5 * np.median(widths[1])
