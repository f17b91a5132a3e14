"""Contributions of questions have for their mean the score that lm-eval gives."""

import math

import numpy as np
import pytest

from topiclora_cli.evaluation.comparison.contributions import contributions, is_comparable

WEIGHTED = [(-3.0, 2), (-10.0, 5), (-4.0, 3), (-20.0, 7)]  # log-likelihoods, and the words or bytes they are of


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("acc,none", [0.0, 1.0, 1.0], 2 / 3),
        ("exact_match,strict-match", [True, False], 0.5),
        ("perplexity,none", [-1.0, -2.0, -0.5], math.exp(3.5 / 3)),
        ("word_perplexity,none", WEIGHTED, math.exp(37 / 17)),
        ("bits_per_byte,none", WEIGHTED, 37 / 17 / math.log(2)),
    ],
)
def test_their_mean_is_the_score(metric, values, expected):
    assert all(is_comparable(metric, value) for value in values)
    assert contributions(metric, values)[0].mean() == pytest.approx(expected)


def test_leaving_a_question_out_moves_a_perplexity_as_its_contribution_says():
    random = np.random.default_rng(0)
    values = [(-float(size) * random.uniform(1, 2), int(size)) for size in random.integers(5, 20, 400)]
    parts, _ = contributions("word_perplexity,none", values)
    of_all, without = (
        math.exp(-sum(each[0] for each in some) / sum(each[1] for each in some)) for some in (values, values[1:])
    )
    assert without == pytest.approx(parts[1:].mean(), rel=1e-4)
    assert not math.isclose(without, of_all, rel_tol=1e-6)


@pytest.mark.parametrize(("metric", "value"), [("f1,none", [0, 1]), ("bleu,none", ["a", "b"]), ("mcc,none", 1.0)])
def test_metrics_of_all_questions_at_once_are_not_taken_apart(metric, value):
    assert not is_comparable(metric, value)
