"""p-values beside those of scipy's and of hand calculation."""

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from topiclora_cli.evaluation.comparison.intervals import draw_questions, drawn_means
from topiclora_cli.evaluation.comparison.significance import (
    BOOTSTRAP,
    MCNEMAR,
    PERMUTATION,
    holm,
    of_differences,
    of_draws,
    of_questions,
)


def test_right_and_wrong_are_tested_by_the_exact_mcnemar():
    one, other = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 5), np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 5)
    found = of_questions(one, other)
    assert found.test == MCNEMAR
    assert found.p == pytest.approx(binomtest(9, 11).pvalue)
    assert of_questions(one, one).p == 1.0


def test_anything_else_is_tested_by_flipping_signs():
    few = np.array([0.5, 1.0, 2.0, 3.0])
    found = of_questions(few, np.zeros(4))
    assert found.test == PERMUTATION
    assert found.p == pytest.approx(2 / 16)  # of 2 ** 4 flips, all plus and all minus
    many = np.random.default_rng(0).normal(0.15, 1, 200)
    assert of_differences(many).p == pytest.approx(ttest_1samp(many, 0).pvalue, abs=0.01)
    assert of_differences(np.zeros(5)).p == of_differences(np.array([0.0, 0.3])).p == 1.0


def test_several_seeds_are_tested_by_the_draws_of_their_interval():
    random = np.random.default_rng(1)
    clear, none = (mean + 0.1 * random.standard_normal((3, 50)) for mean in (0.5, 0.0))
    found = of_draws(drawn_means(list(draw_questions([clear], draws=500)), [1.0]))
    assert found.test == BOOTSTRAP
    assert found.p == pytest.approx(2 / 501)
    assert of_draws(drawn_means(list(draw_questions([none], draws=500)), [1.0])).p > 0.05
    assert of_draws(drawn_means(list(draw_questions([np.zeros((3, 5))], draws=500)), [1.0])).p == 1.0


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
