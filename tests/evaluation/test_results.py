"""Headline metrics, paired errors, routing statistics: against numbers worked out by hand."""

import math

import pytest
import torch
import yaml

from topiclora_cli.evaluation.harness import OUR_TASKS
from topiclora_cli.evaluation.results import EvalResults, compare, summary
from topiclora_cli.evaluation.routing import routing_report
from topiclora_cli.tasks import FAMILIES


def harness_output(scores, task="t", metric="acc", filter_name="none"):
    raw = {
        "results": {task: {f"{metric},{filter_name}": sum(scores) / len(scores), f"{metric}_stderr,{filter_name}": 0.1}}
    }
    return raw, {task: [{"filter": filter_name, metric: score} for score in scores]}


def results(scores, label="x", **kwargs):
    return EvalResults.from_harness(*harness_output(scores, **kwargs), label=label)


def test_difference_is_paired_by_question():
    base, tuned = results([0, 0, 1, 1]), results([1, 0, 1, 1])
    (row,) = compare(base, tuned)
    assert (row.base, row.tuned, row.delta) == (0.5, 0.75, 0.25)
    assert row.delta_stderr == pytest.approx(math.sqrt((0.75**2 + 3 * 0.25**2) / 3 / 4))
    assert row.base_stderr == pytest.approx(math.sqrt(1 / 3 / 4))


def test_summary_averages_over_tasks():
    base = EvalResults("base", {**results([0, 0], task="a").tasks, **results([1, 0], task="b").tasks})
    tuned = EvalResults("tuned", {**results([1, 0], task="a").tasks, **results([1, 1], task="b").tasks})
    result = summary(base, tuned)
    assert (result["base_mean"], result["tuned_mean"], result["delta_mean"]) == (0.25, 0.75, 0.5)
    assert summary(None, tuned)["delta_mean"] is None


@pytest.mark.parametrize(
    ("metric", "filter_name"), [("acc", "none"), ("exact_match", "strict-match"), ("bleu", "none")]
)
def test_headline_metric(metric, filter_name):
    score = results([1.0, 0.0], metric=metric, filter_name=filter_name).tasks["t"]
    assert score.metric == f"{metric},{filter_name}"
    assert score.scores == (1.0, 0.0)


def test_groups_are_not_tasks():
    raw, samples = harness_output([1.0])
    raw["results"]["group"] = {"acc,none": 1.0}
    assert list(EvalResults.from_harness(raw, samples, label="x").tasks) == ["t"]


def test_routing_numbers_at_the_extremes():
    specialised = {"l": torch.eye(4)}
    report = routing_report(specialised, [["a"], ["b"], ["c"], ["d"]])
    assert report.mutual_information == pytest.approx(math.log(4))
    assert report.effective_experts == pytest.approx(4)
    assert report.entropy == pytest.approx(0, abs=1e-6)
    collapsed = {"l": torch.tensor([[1.0, 0, 0, 0]] * 4)}
    report = routing_report(collapsed, [["a"], ["b"], ["c"], ["d"]])
    assert report.mutual_information == pytest.approx(0, abs=1e-6)
    assert report.effective_experts == pytest.approx(1)
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
