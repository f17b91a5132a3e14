"""Folders of lm-eval's are paired question by question, and refused where they are not the same."""

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.comparison.compare import compare


def sums(*right):
    return {"sums": {"acc": [float(each) for each in right]}}


def test_the_smaller_set_is_paired_and_what_is_left_out_is_said(lm_eval_folder):
    one = lm_eval_folder("one", sums(0, 0, 1, 1))
    (found,) = compare([one, lm_eval_folder("two", sums(1, 1, 1, 1, 0, 0))])
    (row,) = found.rows
    assert (row.baseline, row.score, row.difference.mean, row.count) == (0.5, 1.0, 0.5, 4)
    assert (row.p, row.test) == (0.5, "McNemar")
    assert found.notes == ["sums: 2 questions that not all asked are left out."]


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"start": 1}, "1 questions are only in one, 1 only in two"),
        ({"prompt": "other"}, r"differ in the prompt of 3 questions\. Evaluate"),
        ({"prompt": "other", "results": {"n-shot": {"sums": 5}}}, r"differ in the prompt of 3 .*\(0 and 5 shots\)"),
        ({"prompt": "other", "results": {"chat_template_sha": "c"}}, "another chat template"),
        ({"target": "other"}, "differ in the right answer of 3 questions"),
        ({"results": {"versions": {"sums": 2}}}, "have versions 1 and 2 of the task"),
    ],
)
def test_what_was_not_asked_alike_is_refused_by_its_difference(lm_eval_folder, other, match):
    one = lm_eval_folder("one", sums(0, 0, 1))
    with pytest.raises(TopicLoraError, match=match):
        compare([one, lm_eval_folder("two", sums(0, 0, 1), **other)])


def test_tasks_that_one_lacks_are_refused_unless_others_are_chosen(lm_eval_folder):
    one, two = lm_eval_folder("one", {**sums(0, 1), "more": {"acc": [1.0]}}), lm_eval_folder("two", sums(1, 1))
    with pytest.raises(TopicLoraError, match="two lacks the tasks more"):
        compare([one, two])
    (found,) = compare([one, two], tasks=["sums"])
    assert [row.task for row in found.rows] == ["sums"]
    with pytest.raises(TopicLoraError, match=r"None of the runs has answers to the task sum\. Did you mean 'sums'"):
        compare([one, two], tasks=["sum"])


def test_the_metric_is_the_preferred_one_or_that_which_is_asked_for(lm_eval_folder):
    scores = {"sums": {"choice_loss": [1.0, 2.0, 0.5], "acc": [0.0, 0.0, 1.0], "f1": [[0, 1], [1, 1], [0, 0]]}}
    one, two = lm_eval_folder("one", scores), lm_eval_folder("two", scores)
    assert compare([one, two])[0].rows[0].metric == "acc"
    (found,) = compare([one, two], metric="choice_loss,none", show_flips=1)
    assert found.notes == ["No question flipped: the metric is none of right and wrong answers."]
    row = found.rows[0]
    assert (row.metric, row.higher_is_better, row.test) == ("choice_loss", False, "permutation")
    with pytest.raises(TopicLoraError, match="sums has no metric 'f1' of single questions"):
        compare([one, two], metric="f1")


def test_the_mean_and_groups_have_the_interval_and_p_of_their_weights(lm_eval_folder):
    tasks = {"few": {"acc": [0.0, 1.0]}, "many": {"acc": [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}}
    better = {"few": {"acc": [1.0, 1.0]}, "many": {"acc": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]}}
    parts = {"by_size": ["few", "many"], "alike": ["few", "many"], "over": ["alike"], "other": ["few", "absent"]}
    values = {"by_size": {"acc,none": 0.25}, "alike": {"acc,none": 1 / 3}, "other": {"acc,none": 0.5}}
    one = lm_eval_folder("one", tasks, results={"group_subtasks": parts, "groups": values})
    two = lm_eval_folder("two", better)
    (found,) = compare([one, two])
    rows = {row.task: row for row in found.rows}
    assert list(rows) == ["few", "many", "by_size", "alike", "mean of tasks"]
    assert rows["by_size"].difference.mean == pytest.approx(6 / 8)
    assert rows["alike"].difference.mean == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert (rows["by_size"].count, rows["by_size"].score) == (8, 1.0)
    assert rows["mean of tasks"].difference == rows["alike"].difference
    # Six questions changed, all for the better: two of 2 ** 6 flips of their signs are as far from nothing.
    assert rows["by_size"].p == rows["mean of tasks"].p == pytest.approx(2 / 64)
    assert [row.task for row in compare([one, two], tasks=["alike"])[0].rows][:2] == ["few", "many"]


def test_folders_of_one_name_are_told_apart_by_their_paths(lm_eval_folder):
    one, two = lm_eval_folder("a/tuned", sums(0, 1)), lm_eval_folder("b/tuned", sums(1, 1))
    (found,) = compare([one, two])
    assert (found.side, found.baseline) == (two, one)


def test_any_run_can_be_the_baseline(lm_eval_folder):
    names = [lm_eval_folder(name, sums(0, 1, int(name == "c"))) for name in "abc"]
    assert [(each.side, each.baseline) for each in compare(names, baseline=names[2])] == [("a", "c"), ("b", "c")]
    assert [(each.side, each.baseline) for each in compare(names[:1], baseline=names[2])] == [("a", "c")]


def test_what_is_no_comparison_is_refused(lm_eval_folder, tmp_path):
    one, several = lm_eval_folder("one", sums(0, 1)), tmp_path / "several"
    for name in ("several/a", "several/b"):
        lm_eval_folder(name, sums(0, 1))
    scored = lm_eval_folder("scored", {})
    for names, settings, match in (
        ([one], {}, "There is one run, and nothing to compare it with"),
        ([one], {"baseline": "base"}, "None of the runs has scores of its base"),
        ([one, tmp_path / "none"], {}, "none is no folder"),
        ([one, several], {}, "holds the answers of several models"),
        ([one, scored], {}, "has scores but no samples"),
    ):
        with pytest.raises(TopicLoraError, match=match):
            compare([str(name) for name in names], **settings)


def test_tasks_of_one_size_are_drawn_each_for_itself(lm_eval_folder):
    right = {"acc": [float(number % 2) for number in range(40)]}
    one = lm_eval_folder("one", {name: {"acc": [0.0] * 40} for name in ("first", "second")})
    (found,) = compare([one, lm_eval_folder("two", {"first": right, "second": right})])
    first, second, mean = (row.difference for row in found.rows)
    # The mean of two independent tasks is sqrt(2) times as sure as either.
    assert mean.high - mean.low < 0.85 * (first.high - first.low)
    assert second.high - second.low == pytest.approx(first.high - first.low, rel=0.1)
