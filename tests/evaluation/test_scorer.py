"""Continuations are scored as training routes them: a router by prompt sees the context and no token of an answer."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoTokenizer

from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, prompt_tokens
from topiclora_cli.evaluation.scorer import PromptedLM

CONTEXT = [20, 45, 66, 31, 90, 17]
REQUESTS = [
    (CONTEXT, [33, 12, 54, 77, 18]),
    (CONTEXT, [33]),  # options of one token share a forward pass
    (CONTEXT, [12]),
    (CONTEXT[:4], [90, 17, 33]),  # the same tokens but the last as the next, with another end of the prompt
    (CONTEXT, [44]),
    (CONTEXT[:2], [50, 0, 0, 7]),  # token 0 looks like the harness's padding
    (CONTEXT[:2], [50, 0, 9]),
    ([*CONTEXT[:2], 50], [8]),
    ([*CONTEXT[:2], 50, 0], [8]),
]


@pytest.fixture(params=["linear", "hierarchical"])
def model(request, tiny_model):
    config = TopicLoraConfig(
        r=4, num_experts=4, granularity="prompt", router=request.param, target_modules="all-linear"
    )
    return shaken(get_peft_model(tiny_model, config))


@pytest.fixture
def lm(model, tiny_model_dir):
    return PromptedLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir), batch_size=3)


def as_trained(model, context, continuation):
    """The continuation's log-likelihood with the mask that training gives: the prompt is pooled, nothing else."""
    tokens = torch.tensor([context + continuation])
    mask = torch.tensor([[1.0] * len(context) + [0.0] * len(continuation)])
    with torch.no_grad(), prompt_tokens(mask):
        scores = model(tokens).logits.log_softmax(-1)[0]
    return sum(float(scores[len(context) + i - 1, token]) for i, token in enumerate(continuation))


def test_loglikelihood_equals_training(lm, model):
    answers = lm._loglikelihood_tokens([(("c", "a"), *request) for request in REQUESTS], disable_tqdm=True)
    assert [answer for answer, _ in answers] == pytest.approx([as_trained(model, *r) for r in REQUESTS], abs=1e-4)


def test_a_context_cut_on_the_left_ends_where_it_ended(lm, model, monkeypatch):
    monkeypatch.setattr(PromptedLM, "max_length", 7)
    ((answer, _),) = lm._loglikelihood_tokens([(("c", "a"), CONTEXT, [33, 12, 54])], disable_tqdm=True)
    assert answer == pytest.approx(as_trained(model, CONTEXT[-5:], [33, 12, 54]), abs=1e-4)


def test_generation_pools_the_context_of_each_row(lm, model):
    rows = [CONTEXT, CONTEXT[3:]]
    padded = torch.tensor([rows[0], [2] * 3 + rows[1]])
    mask = torch.tensor([[1] * 6, [0] * 3 + [1] * 3])
    made = lm._model_generate(padded, max_length=10, stop=["\n\n"], attention_mask=mask)
    for row, prompt in zip(made.tolist(), rows, strict=True):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + 4:
            with torch.no_grad(), prompt_tokens(torch.ones(1, len(prompt))):
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert row[6:] == tokens[len(prompt) :]
