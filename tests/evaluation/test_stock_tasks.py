"""lm-eval's stock tasks end to end from copies of their data: prompts, shots, filters and metrics are lm-eval's own.

Many minutes on a small machine (the index of lm-eval's tasks, MMLU's 57 subjects, BBH's 27 tasks), and so slow, and all
but a few nightly: `make test-nightly`.
"""

import json

import pytest
from lm_eval.api.task import ConfigurableTask
from transformers import AutoTokenizer

from tests.conftest import DATA, needs_data
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation import loading
from topiclora_cli.evaluation.copy_notes import copy_notes
from topiclora_cli.evaluation.harness import EvalRequest, make_task_manager
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.running import run_harness

HUB = DATA / "hub"
# Task or group -> its headline metric.
STOCK = {
    **dict.fromkeys(("arc_easy", "arc_challenge", "piqa", "openbookqa", "hellaswag"), "acc_norm,none"),
    **dict.fromkeys(("boolq", "winogrande", "commonsense_qa", "social_iqa", "mmlu"), "acc,none"),
    **dict.fromkeys(("gsm8k", "gsm8k_cot", "gsm8k_cot_zeroshot", "gsm8k_cot_llama"), "exact_match,strict-match"),
    "gsm8k_llama": "exact_match,strict_match",
    **{"boolq-seq2seq": "exact_match,none", "super_glue-boolq-t5-prompt": "exact_match,none"},
    **{"arc_challenge_chat": "exact_match,remove_whitespace", "mmlu_continuation": "acc,none"},
    **{"bbh_zeroshot": "exact_match,flexible-extract", "bbh_fewshot": "exact_match,none"},
    **{"bbh_cot_zeroshot": "exact_match,flexible-extract", "bbh_cot_fewshot": "exact_match,get-answer"},
    "leaderboard_bbh": "acc_norm,none",
}
pytestmark = [needs_data, pytest.mark.slow]


@pytest.fixture(scope="module")
def manager():
    """The index of all tasks, made once."""
    return make_task_manager(EvalRequest(tasks=["arc_easy"]))


@pytest.fixture
def request_of(manager, monkeypatch):
    monkeypatch.setattr(loading, "make_task_manager", lambda request: manager)
    monkeypatch.setattr("topiclora_cli.evaluation.running._environment", dict)
    return lambda *tasks, **settings: EvalRequest(tasks=tasks, datasets_dir=str(HUB), **{"limit": 1, **settings})


@pytest.fixture
def score(request_of, tiny_model, tiny_model_dir, tmp_path):
    def call(*tasks, **settings):
        # The tiny model has no room for the hundreds of tokens that some tasks ask for, and nothing to say in them.
        request = request_of(*tasks, gen_kwargs={"max_gen_toks": 4}, **settings)
        loaded = load_tasks(request)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        return loaded, run_harness(tiny_model, tokenizer, request, loaded, label="m", output_path=tmp_path)

    return call


def test_there_are_twenty():
    assert len(STOCK) >= 20


@pytest.mark.nightly
@pytest.mark.parametrize("name", STOCK)
def test_a_stock_task_runs_end_to_end_from_local_data(name, score):
    loaded, results = score(name)
    assert not results.failed
    assert results.scores[name].headline == STOCK[name]
    assert 0 <= results.scores[name].metric.value <= 1
    for task in loaded.tasks.values():
        assert task.config.custom_dataset is None
        assert isinstance(task, ConfigurableTask)


@pytest.mark.nightly
def test_mmlu_is_all_of_its_questions_in_57_subjects(request_of):
    tasks = load_tasks(request_of("mmlu")).tasks
    assert len(tasks) == 57
    assert sum(len(task.eval_docs) for task in tasks.values()) == 14_042


def test_gsm8k_with_eight_shots_shows_eight_training_problems(score, tmp_path):
    score("gsm8k", num_fewshot=8)
    (path,) = (tmp_path / "m").glob("samples_gsm8k_*.jsonl")
    prompt = json.loads(path.read_text().splitlines()[0])["arguments"]["gen_args_0"]["arg_0"]
    assert prompt.count("Question: ") == 9
    assert prompt.count("#### ") == 8


def test_what_differs_from_stock_is_said(request_of):
    loaded = load_tasks(request_of("hellaswag", "piqa"))
    hellaswag, piqa = copy_notes(loaded)
    assert hellaswag.startswith("hellaswag was asked from a copy of Rowan/hellaswag. ")
    assert "rebuilt" in hellaswag
    assert "no split 'train'" in piqa


def test_shots_that_a_copy_has_not_are_refused(request_of):
    with pytest.raises(TopicLoraError, match="baber/piqa has no split 'train', of which the 2 shots of 'piqa'"):
        load_tasks(request_of("piqa", num_fewshot=2))
    with pytest.raises(TopicLoraError, match=r"hub/aps/super_glue/cb is not there\. Of it there are: boolq"):
        load_tasks(request_of("cb"))
