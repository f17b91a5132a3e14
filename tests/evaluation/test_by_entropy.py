"""Scores along the entropy of a question's topics, against numbers worked out by other means."""

import csv

import numpy as np
import pytest
from scipy.stats import linregress

from tests.conftest import write_tiny_recipe
from topiclora_cli.evaluation.by_entropy import Entropies, profiles, scores_by_entropy
from topiclora_cli.reporting.by_entropy import by_entropy_tables
from topiclora_cli.reporting.markdown import write_report
from topiclora_cli.reporting.table import as_markdown
from topiclora_cli.runs.naming import BY_QUESTION, SUMMARY
from topiclora_cli.runs.results.evaluation import EvalSummary, QuestionScores
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.by_entropy import BY_ENTROPY


def drawn(seed=0, count=400, slope=-0.2):
    """Entropies and scores of two tasks, the second harder and with questions of higher entropy."""
    random = np.random.default_rng(seed)
    entropy = {"easy": random.uniform(0, 1, count), "hard": random.uniform(1, 2, count)}
    chances = {"easy": 0.9 + slope * (entropy["easy"] - 0.5), "hard": 0.4 + slope * (entropy["hard"] - 1.5)}
    scores = [(random.uniform(size=(1, count)) < chances[task]).astype(float) for task in entropy]
    return Entropies(entropy), scores


def test_quarters_hold_a_quarter_of_the_questions_each_and_their_mean_scores():
    entropies, scores = drawn()
    (found,) = profiles([scores], entropies)
    assert entropies.counts == (200, 200, 200, 200)
    order, together = entropies.together.argsort(), np.concatenate(scores, axis=1)[0]
    means = together[order].reshape(4, 200).mean(1)
    assert [each.mean for each in found.bins] == pytest.approx(means.tolist())
    error = np.sqrt(means * (1 - means) / 200)
    for each, mean, spread in zip(found.bins, means, error, strict=True):
        assert (each.high - each.low) / 2 == pytest.approx(1.96 * spread, rel=0.12), mean


def test_the_slope_is_that_of_least_squares_and_within_tasks_leaves_out_how_hard_they_are():
    entropies, scores = drawn()
    (found,) = profiles([scores], entropies)
    fitted = linregress(entropies.together, np.concatenate(scores, axis=1)[0])
    assert found.slope.mean == pytest.approx(fitted.slope)
    assert (found.slope.high - found.slope.low) / 2 == pytest.approx(1.96 * fitted.stderr, rel=0.15)
    own = [each - each.mean() for each in entropies.by_task.values()]
    within = linregress(np.concatenate(own), np.concatenate([each[0] - each.mean() for each in scores]))
    assert found.within.mean == pytest.approx(within.slope)
    assert found.within.low < -0.2 < found.within.high
    assert found.slope.high < -0.3


def test_seeds_widen_the_interval_of_a_slope_that_differs_between_them():
    entropies, scores = drawn()
    steep = [
        np.concatenate([each, each - 0.2 * entropy, each + 0.2 * entropy])
        for each, entropy in zip(scores, entropies.by_task.values(), strict=True)
    ]
    alike, apart = profiles([[np.repeat(each, 3, axis=0) for each in scores], steep], entropies)
    assert apart.slope.mean == pytest.approx(alike.slope.mean)
    assert apart.slope.high - apart.slope.low > 3 * (alike.slope.high - alike.slope.low)


def test_a_paired_difference_is_surer_than_two_scores():
    entropies, scores = drawn()
    found = scores_by_entropy({"a": scores}, entropies, differences={"b - a": [0 * each + 0.1 for each in scores]})
    more = found.differences["b - a"]
    assert [(each.low, each.mean, each.high) for each in more.bins] == [pytest.approx((0.1, 0.1, 0.1))] * 4
    assert more.slope.mean == pytest.approx(0, abs=1e-12)


def test_questions_of_one_entropy_make_one_bin_and_no_slope():
    entropies = Entropies({"a": np.full(6, 0.5)})
    found = scores_by_entropy({"a": [np.array([[0, 1, 1, 0, 1, 1.0]])]}, entropies)
    assert (found.counts, found.profiles["a"].slope, found.profiles["a"].within) == ((6,), None, None)
    assert "0.50-0.50 (n 6)" in as_markdown(by_entropy_tables(found)[0])


def test_fewer_questions_than_quarters_leave_no_bin_without_one():
    entropies = Entropies({"a": np.array([0.2, 0.1, 0.4])})
    found = scores_by_entropy({"a": [np.array([[0, 1, 0.5]])]}, entropies)
    assert (found.edges, found.counts) == (pytest.approx((0.1, 0.15, 0.2, 0.4)), (1, 1, 1))
    assert [each.mean for each in found.profiles["a"].bins] == [1, 0, 0.5]
    assert as_markdown(by_entropy_tables(found)[0]).count("(n 1)") == 3


@pytest.fixture(scope="module")
def recipe_of(tiny_model_dir, tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("made"), tiny_model_dir)


def test_a_run_shows_scores_by_entropy_in_the_terminal_the_page_and_a_csv(recipe_of, run_cli, tmp_path):
    train = ["train", "--recipe", recipe_of, "--out", "run", "--set", "train.max_steps=1"]
    assert run_cli(*train)[0] == 0
    code, text = run_cli("eval", "--run", "run", "--by-entropy", "--name", "sorted")
    assert code == 0, text
    assert "Scores by the entropy of topics" in text
    assert "Differences by the entropy of topics" in text
    folder = tmp_path / "run/eval/sorted"
    stored, answers = read_result(folder / SUMMARY, EvalSummary), read_result(folder / BY_QUESTION, QuestionScores)
    assert {task: len(each) for task, each in answers.entropy.items()} == dict.fromkeys(stored.by_entropy.tasks, 4)
    assert all(0 <= value <= np.log(8) for each in answers.entropy.values() for value in each)
    assert sum(stored.by_entropy.counts) == 8
    total = sum(
        n * each.mean
        for n, each in zip(stored.by_entropy.counts, stored.by_entropy.profiles["tuned"].bins, strict=True)
    )
    assert total / 8 == pytest.approx(stored.mean.tuned)
    with (folder / BY_ENTROPY).open() as file:
        assert {row["score"] for row in csv.DictReader(file)} == {"base", "tuned", "tuned - base"}
    write_report(RunDir(tmp_path / "run"))
    assert "Scores by the entropy of topics" in (tmp_path / "run/report.md").read_text()
    code, text = run_cli("eval", "--model", "run", "--model", "base", "--by-entropy")
    assert (code, "here are several models" in text) == (2, True), text
    # The same evaluation without it is the one that any earlier version asked for.
    assert run_cli("eval", "--run", "run", "--name", "plain")[0] == 0
    assert "by_entropy" not in (tmp_path / "run/eval/plain/request.json").read_text()


def test_a_run_without_a_graph_is_scored_and_says_so(recipe_of, run_cli):
    settings = ["adapter.method=lora", "train.max_steps=1", "eval.by_entropy=true"]
    train = ["train", "--recipe", recipe_of, "--out", "run", *(part for each in settings for part in ("--set", each))]
    code, text = run_cli(*train)
    assert code == 0, text
    code, text = run_cli("eval", "--run", "run")
    assert (code, "the run has none" in text) == (0, True), text
