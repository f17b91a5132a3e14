"""Cells over seeds beside the reference: what is compared, what is not, and how sure one is."""

import numpy as np
import pytest

from tests.ablation.finished_cells import result_of
from topiclora_cli.ablation.scores import compare_cells
from topiclora_cli.evaluation.comparison.intervals import paired_interval
from topiclora_cli.recipe import altered, build_recipe
from topiclora_cli.runs.results.ablation import Cost
from topiclora_cli.runs.results.evaluation import PartScores, ScoresByTopic

NONE = dict.fromkeys(("base", "base_stderr", "tuned_stderr", "delta", "delta_stderr"))


def answers(seed, rate, *, tasks=("a", "b"), count=20):
    random = np.random.default_rng(seed)
    return {task: (random.random(count) < rate).astype(float) for task in tasks}


def cell(rate, seeds=(0, 1, 2), *, start=0, **more):
    return {seed: result_of(answers(start + seed, rate), seed=seed, **more) for seed in seeds}


def by_name(finished, reference="full", **more):
    return {score.name: score for score in compare_cells(finished, reference, **more)}


@pytest.mark.parametrize("seeds", [1, 3])
def test_differences_are_those_of_single_comparisons(seeds):
    finished = {"full": cell(0.5, seeds=range(seeds)), "x": cell(0.6, seeds=range(seeds), start=50)}
    found = by_name(finished)["x"].measures["acc"].against["full"]
    pairs = [
        np.stack(
            [
                np.subtract(finished["x"][s].by_question[t]["acc,none"], finished["full"][s].by_question[t]["acc,none"])
                for s in range(seeds)
            ]
        )
        for t in ("a", "b")
    ]
    for level in ("tasks", "questions"):
        alone = paired_interval(pairs, by_task=level == "tasks")
        assert found[level].mean == pytest.approx(alone.mean, abs=1e-12)
        assert found[level].low == pytest.approx(alone.low, abs=1e-12)
        assert found[level].high == pytest.approx(alone.high, abs=1e-12)
    assert found["tasks"].seeds == seeds
    assert found["tasks"].test == ("permutation" if seeds == 1 else "bootstrap")
    assert found["questions"].p is None


def test_an_interval_and_its_p_say_the_same():
    for start in range(30):
        found = by_name({"full": cell(0.5, seeds=[0, 1]), "x": cell(0.55, seeds=[0, 1], start=100 + start)})["x"]
        difference = found.against("full")
        if not 0.03 < difference.p < 0.08:  # near to 0.05 it is up to the draws
            assert (difference.p < 0.05) == (not difference.low <= 0 <= difference.high)


def test_one_seed_has_no_deviation_and_an_interval_over_questions_alone():
    found = by_name({"full": cell(0.4, seeds=[0]), "x": cell(0.7, seeds=[0], start=9)})["x"]
    assert found.deviation is None
    assert found.against("full").test == "permutation"
    assert found.against("full").seeds == 1


def test_two_seeds_that_disagree_have_an_interval_as_wide_as_that_says():
    flat = dict.fromkeys(("a", "b"), np.zeros(10))
    up = {task: np.concatenate([np.ones(6), np.zeros(4)]) for task in flat}
    finished = {
        "full": {0: result_of(flat), 1: result_of(flat)},
        "x": {0: result_of(up), 1: result_of(flat)},
    }
    found = by_name(finished)["x"].against("full")
    assert found.mean == pytest.approx(0.3)
    # Student's t of one degree of freedom: 12.7 standard errors of 0.3.
    assert found.low < -2
    assert found.high > 2
    assert found.p > 0.3


def test_the_base_stands_beside_every_seed():
    finished = {"base": cell(0.2, seeds=[0], start=7), "full": cell(0.6)}
    scores = by_name(finished)
    assert scores["base"].seeds == 1
    assert scores["base"].against("full").seeds == 3
    assert scores["base"].against_full == pytest.approx(scores["base"].mean - scores["full"].mean)
    turned = by_name(finished, reference="base")
    assert turned["full"].against("base").mean == pytest.approx(-scores["base"].against("full").mean)


def test_only_seeds_that_both_have_are_compared():
    found = by_name({"full": cell(0.5, seeds=[0, 1]), "x": cell(0.5, seeds=[1, 2]), "y": cell(0.5, seeds=[5])})
    assert found["x"].against("full").seeds == 1
    assert found["y"].against("full") is None
    assert found["y"].seeds == 1


def test_holm_is_over_all_cells_that_the_grid_will_have():
    recipe = build_recipe({"name": "x", "model": {"name": "m"}}, where="here")
    sure = {task: np.ones(40) for task in ("a", "b")}
    finished = {
        "full": {0: result_of(answers(0, 0.2, count=40))},
        "sure": {0: result_of(sure)},
        "same": {0: result_of(answers(0, 0.2, count=40))},
    }
    alone = by_name(finished)["sure"].against("full")
    assert alone.family == 2
    assert alone.p_holm == pytest.approx(2 * alone.p)
    planned = dict.fromkeys(["full", "sure", "same", *(f"later-{n}" for n in range(7))], recipe)
    scores = by_name(finished, recipes=planned)
    assert scores["sure"].against("full").family == 9
    assert scores["sure"].against("full").p_holm == pytest.approx(9 * scores["sure"].against("full").p)
    assert scores["same"].against("full").p_holm == 1.0
    assert scores["full"].against("full") is None


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"metric": "exact_match"}, "scored by exact_match, not by acc"),
        ({"unit": "", "better": False, "metric": "word_perplexity"}, "scored by word_perplexity, not by acc"),
    ],
)
def test_a_cell_with_another_metric_is_compared_with_nothing(other, why):
    found = by_name({"full": cell(0.5), "x": cell(0.6, **other), "y": cell(0.4)})
    assert why in found["x"].odd
    assert found["x"].against("full") is None
    assert found["x"].standing.rank is None
    assert found["x"].fronts == ()
    assert (found["y"].odd, found["y"].standing.among) == ("", 2)


def test_cells_that_were_asked_something_else_are_compared_with_nothing():
    finished = {
        "full": cell(0.5),
        "fewer": {0: result_of(answers(0, 0.5, count=19))},
        "others": {0: result_of(answers(0, 0.5, tasks=("a", "c")))},
        "filtered": cell(0.5),
    }
    recipe = build_recipe({"name": "x", "model": {"name": "m"}}, where="here")
    recipes = dict.fromkeys(finished, recipe)
    recipes["filtered"] = altered(recipe, [("eval.limit", 20)], where="here")
    found = by_name(finished, recipes=recipes)
    assert found["fewer"].odd == found["filtered"].odd == "it was asked other questions"
    assert found["others"].odd == "it was asked other tasks"
    assert all(found[name].against("full") is None for name in ("fewer", "others", "filtered"))


def test_a_cell_whose_questions_nobody_kept_is_ranked_and_has_no_interval():
    bare = result_of(answers(0, 0.9))
    finished = {"full": cell(0.5, seeds=[0]), "x": {0: type(bare)(bare.scores)}}
    found = by_name(finished)["x"]
    assert found.against("full") is None
    assert found.standing.rank is not None
    assert found.against_full is not None


def test_tasks_are_paired_by_name_whatever_their_order():
    own = answers(0, 0.5)
    finished = {"full": {0: result_of(own)}, "x": {0: result_of(dict(reversed(own.items())))}}
    found = by_name(finished)["x"].against("full")
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_where_less_is_better_the_smaller_score_is_on_the_front():
    about = {"metric": "word_perplexity", "unit": "per word", "better": False}
    cost = Cost(parameters=5)
    finished = {
        "full": {0: result_of({"a": [20.0]}, cost=cost, **about)},
        "x": {0: result_of({"a": [10.0]}, cost=cost, **about)},
    }
    found = by_name(finished)
    assert (found["x"].fronts, found["full"].fronts) == (("parameters",), ())
    assert found["x"].standing.wins == 1


def test_without_the_reference_nothing_is_compared_with_it():
    found = by_name({"x": cell(0.5), "y": cell(0.6)}, reference="full")
    assert found["x"].against("full") is None
    assert found["x"].standing.rank is not None
    assert compare_cells({}, "full") == []


def test_topics_are_compared_where_both_were_asked_as_many_questions_of_one():
    def parts(**counts_and_scores):
        topics = [
            PartScores(part=name, count=count, unit="share", higher_is_better=True, **{**NONE, "tuned": score})
            for name, (count, score) in counts_and_scores.items()
        ]
        return ScoresByTopic(("a", "b"), tuple(topics), ())

    finished = {
        "full": {0: result_of(answers(0, 0.5), by_topic=parts(logic=(10, 0.5), dates=(6, 0.1)))},
        "x": {0: result_of(answers(0, 0.5), by_topic=parts(logic=(10, 0.7), dates=(5, 0.2)))},
    }
    logic, dates = by_name(finished)["x"].topics
    assert (logic.topic, logic.count, logic.seeds) == ("logic", 10, 1)
    assert logic.difference == pytest.approx(0.2)
    assert (dates.difference, dates.seeds, dates.mean) == (None, 0, 0.2)
