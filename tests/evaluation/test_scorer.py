"""Continuations are scored as training routes them: a router by prompt sees the context and no token of an answer."""

from types import SimpleNamespace

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


@pytest.mark.parametrize("adapter", [None, {"router": "linear"}, {"router": "linear", "top_k": 1, "shared_a": True}])
def test_choices_go_on_from_their_prompt_which_runs_once(adapter, tiny_model, tiny_model_dir):
    model = tiny_model
    if adapter is not None:
        config = TopicLoraConfig(r=4, num_experts=4, target_modules="all-linear", **adapter)
        model = shaken(get_peft_model(model, config))
    lm = PromptedLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir), batch_size=3)
    choices = [[33, 12, 54], [33], [12, 90], [44, 17, 17, 5]]
    other = [7, *CONTEXT[1:]]
    requests = [(context, choice) for context in (CONTEXT, CONTEXT[:4], other) for choice in choices]
    requests += [(CONTEXT[:2], [50, 9]), ([*CONTEXT, 5], [4])]
    seen = []
    hook = tiny_model.get_input_embeddings().register_forward_hook(lambda *call: seen.append(call[1][0].numel()))
    answers = lm._loglikelihood_tokens([(("c", "a"), *request) for request in requests], disable_tqdm=True)
    hook.remove()
    greedy = greedy_continuation(model, CONTEXT[:4], 3)
    assert [score for score, _ in answers] == pytest.approx([as_trained(model, *r) for r in requests], abs=1e-4)
    # Three prompts once, with a few tokens for each choice; each alone would take some 95.
    assert sum(seen) < 75
    found = lm._loglikelihood_tokens([(("c", "a"), CONTEXT[:4], each) for each in (greedy, [1, 1])], disable_tqdm=True)
    assert [is_greedy for _, is_greedy in found] == [True, False]


def test_a_batch_is_as_many_prompts_and_then_as_many_continuations(tiny_model, tiny_model_dir):
    lm = PromptedLM(pretrained=tiny_model, tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir), batch_size=2)
    choices = [[33, 12, 54], [12, 90], [44, 17, 17, 5], [8], [9, 9]]
    requests = [([first, *CONTEXT], choice) for first in (5, 6, 7) for choice in choices]
    shapes = []
    hook = tiny_model.get_input_embeddings().register_forward_hook(lambda *call: shapes.append(call[1][0].shape))
    answers = lm._loglikelihood_tokens([(("c", "a"), *request) for request in requests], disable_tqdm=True)
    hook.remove()
    assert max(rows for rows, _ in shapes) == 2
    assert [shape for shape in shapes if shape[1] == 7] == [(2, 7), (1, 7)]
    assert [score for score, _ in answers] == pytest.approx([as_trained(tiny_model, *r) for r in requests], abs=1e-4)


def test_a_continuation_of_no_token_is_lm_evals_error(tiny_model, tiny_model_dir):
    lm = PromptedLM(pretrained=tiny_model, tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir), batch_size=2)
    with pytest.raises(AssertionError):
        lm._loglikelihood_tokens([(("c", "a"), CONTEXT, choice) for choice in ([], [3, 4])], disable_tqdm=True)


def greedy_continuation(model, context, length):
    tokens = list(context)
    for _ in range(length):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(context) :]


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


def test_a_tied_head_is_rounded_once_while_the_model_is_asked(tiny_model, tiny_model_dir):
    head, embedding = tiny_model.lm_head, tiny_model.get_input_embeddings()
    head.weight = embedding.weight
    tiny_model.requires_grad_(False)
    seen = set()
    head.register_forward_pre_hook(lambda module, _: seen.add(module.weight.dtype))
    for dtype, wanted in [("bfloat16", torch.bfloat16), (None, torch.float32)]:
        lm = PromptedLM(
            pretrained=tiny_model,
            tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir),
            batch_size=3,
            mixed_precision_dtype=dtype,
        )
        seen.clear()
        lm._loglikelihood_tokens([(("c", "a"), *request) for request in REQUESTS], disable_tqdm=True)
        assert seen == {wanted}
        seen.clear()
        lm.generate_until([SimpleNamespace(args=("a", {"until": [], "max_gen_toks": 3, "do_sample": False}))])
        assert seen == {wanted}
    assert head.weight is embedding.weight
