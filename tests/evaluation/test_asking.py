"""Questions posed once and put to a model under other conditions: an evaluation's digits where nothing is changed."""

import contextlib

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import AutoTokenizer

from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, interfered_routing
from topiclora_cli.adapters.interference import ByPrior, SwitchedOff
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.asking import answer, pose
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.results import by_question
from topiclora_cli.evaluation.rows import RowsLM
from topiclora_cli.evaluation.running import run_harness

OURS = ["topiclora_syllogisms", "topiclora_word_sorting"]


@pytest.fixture
def mixture(tiny_model):
    config = TopicLoraConfig(r=4, num_experts=4, top_k=2, router="linear", target_modules="all-linear")
    return shaken(get_peft_model(tiny_model, config))


@pytest.fixture
def opened(mixture, tiny_model_dir, task_folder):
    """A function: names of tasks -> the tasks, their request, a scorer and the tokenizer."""

    def open_(names, **settings):
        request = EvalRequest(tasks=names, include_path=str(task_folder), limit=6, batch_size=4, **settings)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        lm = RowsLM(pretrained=mixture, tokenizer=tokenizer, batch_size=request.batch_size)
        return load_tasks(request), request, lm, tokenizer

    return open_


@pytest.mark.parametrize(("names", "shots"), [([*OURS, "choice"], None), (["choice", "free"], 2)], ids=str)
def test_unchanged_questions_score_as_an_evaluation_to_the_digit(names, shots, opened, mixture, tmp_path):
    tasks, request, lm, tokenizer = opened(names, num_fewshot=shots)
    questions = pose(tasks, request, lm, limit=6)
    found = answer(lm, tasks, questions, request)
    with interfered_routing(mixture, None):
        again = answer(lm, tasks, questions, request)
    with interfered_routing(mixture, SwitchedOff(frozenset({0}))):
        other = answer(lm, tasks, questions, request)
    assert not np.array_equal(other.answer_loss, found.answer_loss)
    for measure in ("score", "choice_loss", "answer_loss"):
        assert np.array_equal(getattr(found, measure), getattr(again, measure), equal_nan=True)
        after = getattr(answer(lm, tasks, questions, request), measure)
        assert np.array_equal(getattr(found, measure), after, equal_nan=True)
    results = run_harness(mixture, tokenizer, request, tasks, label="m", output_path=tmp_path)
    each = by_question(results)
    for name in names:
        at = [place for place, question in enumerate(questions) if question.task == name]
        assert [questions[place].place for place in at] == list(range(len(at)))
        assert found.score[at].tolist() == each[name][results.scores[name].headline]
        if "choice_loss,none" in each[name]:
            assert found.choice_loss[at].tolist() == each[name]["choice_loss,none"]
        else:
            assert np.isnan(found.choice_loss[at]).all()
    assert np.isfinite(found.answer_loss).all()


def test_the_answer_loss_is_that_of_the_right_answer(opened, mixture):
    tasks, request, lm, tokenizer = opened(OURS)
    questions = pose(tasks, request, lm, limit=3)
    found = answer(lm, tasks, questions, request)
    for question, loss in zip(questions, found.answer_loss, strict=True):
        right = question.answer.strip()
        expected = question.doc["answer"]
        assert right == str(expected)
        context, whole = (tokenizer(text)["input_ids"] for text in (question.prompt, question.prompt + question.answer))
        with torch.no_grad():
            scores = mixture(torch.tensor([whole])).logits.log_softmax(-1)[0]
        total = sum(float(scores[at - 1, whole[at]]) for at in range(len(context), len(whole)))
        assert loss == pytest.approx(-total, abs=1e-3)


def test_tasks_that_ask_nothing_are_left_out_and_alone_refused(opened):
    tasks, request, lm, _ = opened(["prose", "choice", "cloze"])
    questions = pose(tasks, request, lm, limit=2)
    assert {question.task for question in questions} == {"choice", "cloze"}
    found = answer(lm, tasks, questions, request)
    assert np.isnan(found.score).tolist() == [question.task == "cloze" for question in questions]
    tasks, request, lm, _ = opened(["prose"])
    with pytest.raises(TopicLoraError, match="None of the tasks asks questions with an answer"):
        pose(tasks, request, lm, limit=2)


@pytest.mark.parametrize("names", [["topiclora_syllogisms"], ["topiclora_word_sorting"], ["choice"]], ids=str)
def test_every_call_of_the_model_knows_whose_prompts_its_rows_are(names, opened, mixture):
    tasks, request, lm, tokenizer = opened(names)
    questions = pose(tasks, request, lm, limit=4)
    known = {tuple(tokenizer(question.prompt)["input_ids"]) for question in questions}
    seen = []

    def around(prompts):
        seen.extend(prompts)
        return contextlib.nullcontext()

    lm.around = around
    plain = answer(lm, tasks, questions, request)
    assert set(seen) == known
    # A prior of its own for every row, which chooses the same experts wherever the row is scored.
    priors = {prompt: torch.rand(4, generator=torch.Generator().manual_seed(sum(prompt))) for prompt in known}

    def by_prior(prompts):
        rows = torch.stack([priors[prompt] / priors[prompt].sum() for prompt in prompts])
        return interfered_routing(mixture, ByPrior(rows))

    lm.around = by_prior
    together = answer(lm, tasks, questions, request)
    alone = [answer(lm, tasks, [question], request).answer_loss[0] for question in questions]
    assert together.answer_loss.tolist() == pytest.approx(alone, abs=1e-3)
    assert not np.allclose(together.answer_loss, plain.answer_loss)
