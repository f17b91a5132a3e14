"""The real lm-eval on a tiny model: every kind of output and metric, groups, and the mistakes of task files."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from sklearn.metrics import matthews_corrcoef
from transformers import AutoTokenizer

from tests.evaluation.conftest import CHOICES, ROWS
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.results import summary
from topiclora_cli.evaluation.running import run_harness


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture
def score(tiny_model, tokenizer, task_folder, tmp_path):
    def call(*tasks, **settings):
        request = EvalRequest(tasks=tasks, include_path=str(task_folder), batch_size=4, **settings)
        loaded = load_tasks(request)
        return run_harness(tiny_model, tokenizer, request, loaded, label="m", output_path=tmp_path)

    return call


def likelihoods(model, tokenizer, questions, answers):
    """Log-likelihood of each answer after its question."""
    found = []
    for question, answer in zip(questions, answers, strict=True):
        context, whole = tokenizer(question).input_ids, tokenizer(question + answer).input_ids
        with torch.no_grad():
            scores = model(torch.tensor([whole])).logits.log_softmax(-1)[0]
        found.append(sum(float(scores[i - 1, whole[i]]) for i in range(len(context), len(whole))))
    return found


def chosen(model, tokenizer, template="{}"):
    each = [[template.format(row["q"])] * 2 for row in ROWS]
    scores = [likelihoods(model, tokenizer, questions, [f" {c}" for c in CHOICES]) for questions in each]
    return [CHOICES[max(range(2), key=pair.__getitem__)] for pair in scores]


def test_multiple_choice_goes_by_normalised_accuracy_where_the_task_lists_it(score, tiny_model, tokenizer):
    result = score("choice").scores["choice"]
    right = [answer == row["a"] for answer, row in zip(chosen(tiny_model, tokenizer), ROWS, strict=True)]
    assert result.headline == "acc_norm,none"
    assert result.metrics["acc,none"].value == pytest.approx(sum(right) / 12)
    assert result.metrics["acc,none"].stderr == pytest.approx(torch.tensor(right).float().std().item() / math.sqrt(12))
    assert (result.metric.unit, result.metric.higher_is_better, result.count) == ("share", True, 12)


def test_metrics_of_pairs_have_values_and_errors(score, tiny_model, tokenizer):
    result = score("pairs").scores["pairs"]
    guessed = [CHOICES.index(answer) for answer in chosen(tiny_model, tokenizer)]
    assert result.headline == "mcc,none"
    assert result.metric.value == pytest.approx(matthews_corrcoef([CHOICES.index(row["a"]) for row in ROWS], guessed))
    assert result.metric.stderr is not None
    assert set(result.metrics) == {"mcc,none", "f1,none", "choice_loss,none"}


def test_perplexity_is_lower_for_better(score, tiny_model, tokenizer):
    result = score("cloze").scores["cloze"].metric
    each = likelihoods(tiny_model, tokenizer, [row["q"] for row in ROWS], [f" {row['a']}" for row in ROWS])
    assert result.value == pytest.approx(math.exp(-sum(each) / len(each)), rel=1e-4)
    assert (result.higher_is_better, result.unit) == (False, "")


def test_rolling_likelihood(score, tiny_model, tokenizer):
    result = score("prose").scores["prose"]
    texts = [row["text"] for row in ROWS]
    total = sum(likelihoods(tiny_model, tokenizer, [tokenizer.eos_token] * 12, [" " + text for text in texts]))
    words, size = sum(len(text.split()) for text in texts), sum(len(text) for text in texts)
    assert result.headline == "word_perplexity,none"
    assert result.metric.value == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert result.metrics["bits_per_byte,none"].value == pytest.approx(-total / size / math.log(2), rel=1e-4)
    assert {metric.higher_is_better for metric in result.metrics.values()} == {False}
    assert result.metrics["bits_per_byte,none"].unit == "bits per byte"


def test_generation_goes_by_its_first_filter_unless_told_otherwise(score):
    result = score("free").scores["free"]
    assert result.headline == "exact_match,strict-match"
    assert "bleu,flexible-extract" in result.metrics
    assert result.metrics["bleu,strict-match"].unit == "points of 100"
    assert score("free", metrics=["exact_match,flexible-extract"]).scores["free"].headline.endswith("-extract")
    assert score("free", metrics={"free": "bleu"}).scores["free"].headline == "bleu,strict-match"


def test_groups_are_lm_evals_own_with_its_weights(score):
    result = score("weighed", "plain")
    few, many = (result.scores[name].metric.value for name in ("few", "many"))
    assert few != many
    assert result.scores["weighed"].metric.value == pytest.approx((3 * few + 12 * many) / 15)
    assert result.scores["plain"].metric.value == pytest.approx((few + many) / 2)
    assert list(result.scores) == ["weighed", "few", "many", "plain"]
    assert list(result.counted) == ["weighed", "plain"]


def test_a_task_in_two_places_counts_once(score):
    result = score("choice", "few", "over", "choice")
    assert list(result.counted) == ["over"]
    assert list(result.scores) == ["over", "weighed", "few", "many", "choice"]
    assert [score.depth for score in result.scores.values()] == [0, 1, 2, 2, 1]


def test_the_same_model_differs_by_nothing_and_every_metric_is_stored(score):
    result = score("choice", "pairs", "weighed", "cloze")
    stored = json.loads(json.dumps(asdict(summary(result, result))))
    for row in stored["tasks"]:
        assert (row["delta"], row["delta_stderr"]) == (0, 0), row["task"]
    rows = {row["task"]: row for row in stored["tasks"]}
    assert set(rows["choice"]["metrics"]) == {"acc,none", "acc_norm,none", "choice_loss,none"}
    assert set(rows["choice"]["metrics"]["acc,none"]) == {
        *("unit", "higher_is_better", "base", "base_stderr", "tuned", "tuned_stderr", "delta", "delta_stderr")
    }
    assert stored["mean"]["of"] == ["choice", "weighed"]
    assert stored["mean"]["tuned"] == pytest.approx((rows["choice"]["tuned"] + rows["weighed"]["tuned"]) / 2)


def test_shots_are_the_same_for_every_model(score, tmp_path):
    score("cloze", num_fewshot=0)
    for _ in range(2):
        score("many", num_fewshot=1)
    texts = [path.read_text() for path in sorted(tmp_path.glob("m/samples_many_*"))]
    prompts = [[json.loads(line)["prompt_hash"] for line in text.splitlines()] for text in texts]
    assert len(prompts) == 2
    assert prompts[0] == prompts[1]


def test_lm_evals_own_files_lie_beside(score, tmp_path):
    score("weighed")
    (path,) = tmp_path.glob("m/results_*.json")
    stored = json.loads(path.read_text())
    assert set(stored["groups"]) == {"weighed"}
    assert {"few", "many", "weighed"} == set(stored["results"])
    assert stored["group_subtasks"] == {"weighed": ["few", "many"]}
    assert len(list(tmp_path.glob("m/samples_*.jsonl"))) == 2


def test_a_task_that_fails_takes_no_other_with_it(score, tmp_path):
    result = score("few", "breaks", "many")
    assert list(result.scores) == ["few", "many"]
    assert result.failed == {"breaks": "IndexError: no such answer"}
    assert "raise IndexError" in (tmp_path / "m" / "failed_breaks.txt").read_text()


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("missing", {}, "needs a Python package .*pip install no_such_package"),
        ("lazy", {}, "needs a Python package .*pip install no_such_package"),
        ("harmful", {}, "runs code that the model writes. .*--unsafe-code"),
        ("harmful_elsewhere", {}, "runs code that the model writes. .*--unsafe-code"),
        ("unposed", {}, "'unposed' cannot be posed: UndefinedError"),
        ("fewer", {}, "no task 'fewer'. Did you mean 'few'"),
        ("choice", {"metrics": ["accuracy"]}, "no metric 'accuracy'. There are: acc acc_norm"),
        ("over", {"metrics": {"over": "acc_norm"}}, "over has no metric 'acc_norm'. There are: acc"),
        ("choice", {"metrics": {"choise": "acc"}}, "'choise' is no task to evaluate. Did you mean 'choice'"),
    ],
)
def test_what_cannot_be_scored_is_said_before_a_model_is_loaded(task, settings, message, task_folder, few_tasks):
    with pytest.raises(TopicLoraError, match=message):
        load_tasks(EvalRequest(tasks=[task], include_path=str(task_folder), **settings))
