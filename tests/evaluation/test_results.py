"""Headline metrics, paired errors, routing statistics: against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
import yaml

from topiclora_cli.data.families import FAMILIES
from topiclora_cli.evaluation.harness import OUR_TASKS
from topiclora_cli.evaluation.metrics import Metric, headline
from topiclora_cli.evaluation.results import EvalResults, Score, mean_stderr, summary
from topiclora_cli.evaluation.routing import routing_report
from topiclora_cli.reporting.formats import measured, metric_label, metric_name


def result(label="x", counted=None, **tasks):
    """Results of tasks given as lists of scores, or as metrics."""
    scores = {}
    for name, given in tasks.items():
        metric = given if isinstance(given, Metric) else share(given)
        scores[name] = Score(name, {metric.key: metric}, metric.key, len(metric.scores), group=bool(metric.parts))
    return EvalResults(label, scores, list(tasks) if counted is None else counted)


def share(scores):
    return Metric("acc", "none", sum(scores) / len(scores), mean_stderr(scores), True, scores)


def perplexity(likelihoods):
    def aggregate(each):
        return math.exp(-sum(each) / len(each))

    return Metric("perplexity", "none", aggregate(likelihoods), 0.5, False, likelihoods, aggregate)


def test_difference_is_paired_by_question():
    (row,) = summary(result(t=[0, 0, 1, 1]), result(t=[1, 0, 1, 1])).tasks
    assert (row.base, row.tuned, row.delta) == (0.5, 0.75, 0.25)
    assert row.delta_stderr == pytest.approx(math.sqrt((0.75**2 + 3 * 0.25**2) / 3 / 4))
    assert row.base_stderr == pytest.approx(math.sqrt(1 / 3 / 4))


def test_summary_averages_over_tasks():
    base, tuned = result(a=[0, 0], b=[1, 0]), result(a=[1, 0], b=[1, 1])
    mean = summary(base, tuned).mean
    assert (mean.base, mean.tuned, mean.delta, mean.of) == (0.25, 0.75, 0.5, ("a", "b"))
    alone = summary(None, tuned)
    assert (alone.mean.delta, alone.mean.tuned, alone.tasks[0].base) == (None, 0.75, None)


def test_the_difference_of_what_is_no_mean_has_an_error_over_questions_drawn_anew():
    base, tuned = [-1.0, -2.0, -1.5, -0.5] * 5, [-0.9, -1.9, -1.4, -0.4] * 5
    (row,) = summary(result(t=perplexity(base)), result(t=perplexity(tuned))).tasks
    assert row.delta == pytest.approx(math.exp(1.15) - math.exp(1.25))
    # Every question gains alike, so the difference is far surer than either figure.
    assert 0 < row.delta_stderr < 0.15 * row.base_stderr
    assert (row.higher_is_better, row.unit) == (False, "")


def test_the_error_of_a_groups_difference_is_that_of_its_weighted_tasks():
    base, tuned = {"a": [0, 0, 1, 1], "b": [0, 1] * 6}, {"a": [1, 0, 1, 1], "b": [1, 1, 0, 1] * 3}
    weights = {"a": 0.25, "b": 0.75}

    def with_group(tasks):
        value = sum(weights[name] * share(scores).value for name, scores in tasks.items())
        return result(**tasks, g=Metric("acc", "none", value, 0.1, True, parts=weights), counted=["g"])

    rows = {row.task: row for row in summary(with_group(base), with_group(tuned)).tasks}
    parts = [weights[name] * rows[name].delta_stderr for name in "ab"]
    assert rows["g"].delta_stderr == pytest.approx(math.hypot(*parts))
    assert rows["g"].delta == pytest.approx(0.25 * rows["a"].delta + 0.75 * rows["b"].delta)


def test_a_mean_never_mixes_kinds():
    mixed = result(a=[1, 0], b=[1, 1], p=perplexity([-1.0, -2.0]))
    assert summary(None, mixed).mean.of == ("a", "b")
    alone = summary(None, result(p=perplexity([-1.0, -2.0]))).mean
    assert (alone.tuned, alone.higher_is_better) == (pytest.approx(math.exp(1.5)), False)
    bleu = Metric("bleu", "none", 30.0, None, True)
    assert summary(None, result(p=perplexity([-1.0, -2.0]), b=bleu)).mean is None


@pytest.mark.parametrize(
    ("available", "wanted", "chosen"),
    [
        (["acc,none", "acc_norm,none"], [], "acc_norm,none"),
        (["acc,none", "acc_norm,none"], ["acc"], "acc,none"),
        (["exact_match,strict-match", "exact_match,flexible-extract"], [], "exact_match,strict-match"),
        (["exact_match,strict-match", "exact_match,flexible-extract"], ["exact_match,flexible-extract"], None),
        (["perplexity,none", "acc,none"], [], "acc,none"),
        (["word_perplexity,none", "byte_perplexity,none"], ["acc"], "word_perplexity,none"),
        (["mcc,none", "f1,none"], ["f1", "mcc"], "f1,none"),
    ],
)
def test_headline_metric(available, wanted, chosen):
    assert headline(available, wanted) == (chosen or wanted[0])


@pytest.mark.parametrize(
    ("name", "value", "better", "shown"),
    [
        ("acc_norm", 0.4567, True, "acc_norm, % ↑: 45.7 ± 1.0"),
        ("word_perplexity", 23.4567, False, "word_perplexity ↓: 23.457 ± 0.010"),
        ("bleu", 31.2, True, "bleu, of 100 ↑: 31.200 ± 0.010"),
        ("mcc", -0.25, True, "mcc ↑: -0.250 ± 0.010"),
        ("exact_match", 45.0, True, "exact_match ↑: 45.000 ± 0.010"),
        ("mine", 1.5, None, "mine: 1.500 ± 0.010"),
    ],
)
def test_metrics_are_shown_in_their_unit_with_their_direction(name, value, better, shown):
    tuned = result(t=Metric(name, "none", value, 0.01, better))
    (row,) = summary(None, tuned).tasks
    assert f"{metric_label(metric_name(row), row)}: {measured(row, 'tuned')}" == shown
    assert measured(replace(row, delta=-value, delta_stderr=None), "delta").startswith("+" if value < 0 else "-")


def test_routing_numbers_at_the_extremes():
    specialised = {"l": torch.eye(4)}
    report = routing_report(specialised, [["a"], ["b"], ["c"], ["d"]])
    assert report.mutual_information == pytest.approx(math.log(4))
    assert report.experts_in_use == pytest.approx(4)
    assert report.entropy == pytest.approx(0, abs=1e-6)
    collapsed = {"l": torch.tensor([[1.0, 0, 0, 0]] * 4)}
    report = routing_report(collapsed, [["a"], ["b"], ["c"], ["d"]])
    assert report.mutual_information == pytest.approx(0, abs=1e-6)
    assert report.experts_in_use == pytest.approx(1)
    assert report.largest_load == 1
    even = routing_report({"l": torch.full((2, 4), 0.25)}, [["a"], ["a", "b"]])
    assert even.entropy == pytest.approx(1)
    assert even.by_topic == {"a": [0.25] * 4, "b": [0.25] * 4}


def test_layers_of_other_sizes_are_left_out_of_the_routing_report():
    mixed = {"plain": torch.ones(2, 1), "small": torch.full((2, 2), 0.5), "a": torch.eye(4)[:2], "b": torch.eye(4)[:2]}
    assert len(routing_report(mixed, [["a"], ["b"]]).by_topic["a"]) == 4
    assert routing_report({"plain": torch.ones(2, 1)}, [["a"], ["b"]]) is None


def test_every_family_is_an_lm_eval_task_of_its_kind():
    for name, family in FAMILIES.items():
        task = yaml.safe_load((OUR_TASKS / f"{name}.yaml").read_text())
        assert task["task"] == f"topiclora_{name}"
        assert task["metadata"]["family"] == name
        assert task["tag"] == "topiclora_quickstart"
        assert task["include"] == f"_{family.kind}_template_yaml"
    assert {path.stem for path in OUR_TASKS.glob("*.yaml")} == set(FAMILIES)
