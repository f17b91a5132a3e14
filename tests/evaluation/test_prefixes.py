"""Prompts that begin alike are found, so that what they begin with runs once; and no score is another for it."""

import random

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from tests.conftest import shaken
from tests.evaluation.test_scorer import as_trained
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.evaluation.prefixes import OF_CALLS, by_prefix
from topiclora_cli.evaluation.rows import RowsLM
from topiclora_cli.evaluation.scorer import PromptedLM


def some(count, seed):
    chance = random.Random(seed)
    return tuple(chance.randrange(3, 60) for _ in range(count))


SHOTS, OTHERS = some(60, 1), some(40, 2)


def test_prompts_are_grouped_by_what_saves_most():
    first = [(*SHOTS, *some(4 + at % 3, 10 + at)) for at in range(12)]
    second = [(*SHOTS[:10], *OTHERS, *some(5, 30 + at)) for at in range(10)]
    alone = [some(20, 50 + at) for at in range(5)]
    groups = by_prefix([*alone, *first, *second])
    # Ten tokens are common to both, which saves less than what each has for itself.
    assert sorted((length, sorted(members)) for length, members in groups) == [
        (0, list(range(5))),
        (50, list(range(17, 27))),
        (60, list(range(5, 17))),
    ]


def test_a_beginning_that_saves_less_than_its_calls_cost_is_left_alone():
    prompts = [(*SHOTS[:50], at) for at in range(OF_CALLS // 50 + 1)]
    assert [(length, sorted(members)) for length, members in by_prefix(prompts)] == [(0, list(range(len(prompts))))]
    (group,) = by_prefix([*prompts, (*SHOTS[:50], 99)])
    assert group.length == 50


def test_a_prompt_that_others_go_on_from_keeps_its_last_token():
    prompts = [SHOTS[:40], *((*SHOTS[:40], at) for at in range(20))]
    (group,) = by_prefix(prompts)
    assert (group.length, len(group.members)) == (39, 21)


def test_many_prompts_that_go_on_from_one_another_are_grouped():
    prompts = [tuple(range(length)) for length in range(1, 1500)]
    assert sorted(member for group in by_prefix(prompts) for member in group.members) == list(range(1499))


CHOICES = [[33, 12, 54], [33], [12, 90], [44]]
QUESTIONS = [some(3 + at % 4, 70 + at) for at in range(9)]
REQUESTS = [((*SHOTS, *question), choice) for question in QUESTIONS for choice in CHOICES]
REQUESTS += [((*SHOTS, *some(4, 90 + at)), [7, 8]) for at in range(3)]  # one continuation, as of statements
REQUESTS += [(some(5, 99), [5, 6])]


def scored_by(kind, model, folder, requests=REQUESTS):
    lm = kind(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=4)
    seen = []
    embeddings = next(part for part in model.modules() if isinstance(part, torch.nn.Embedding))
    hook = embeddings.register_forward_hook(lambda *call: seen.append(call[1][0].numel()))
    given = [(("c", "a"), list(context), choice) for context, choice in requests]
    answers = lm._loglikelihood_tokens(given, disable_tqdm=True)
    hook.remove()
    return [score for score, _ in answers], sum(seen)


def expected(model):
    return [as_trained(model, list(context), choice) for context, choice in REQUESTS]


@pytest.mark.parametrize("adapter", [None, {"router": "topic", "top_k": 2}, {"router": "linear", "shared_experts": 1}])
def test_what_all_prompts_begin_with_runs_once(adapter, tiny_model, tiny_model_dir):
    model = tiny_model
    if adapter is not None:
        config = TopicLoraConfig(r=4, num_experts=4, target_modules="all-linear", **adapter)
        model = shaken(get_peft_model(model, config))
    scores, tokens = scored_by(PromptedLM, model, tiny_model_dir)
    assert scores == pytest.approx(expected(model), abs=1e-4)
    assert tokens < 60 + 12 * 8 + 9 * 3 * 4


def test_a_router_by_prompt_runs_each_prompt_whole(tiny_model, tiny_model_dir):
    config = TopicLoraConfig(r=4, num_experts=4, granularity="prompt", router="linear", target_modules="all-linear")
    model = shaken(get_peft_model(tiny_model, config))
    scores, _ = scored_by(PromptedLM, model, tiny_model_dir)
    assert scores == pytest.approx(expected(model), abs=1e-4)


def test_whoever_asks_for_the_prompt_of_every_row_gets_it_whole(tiny_model, tiny_model_dir):
    scores, tokens = scored_by(RowsLM, tiny_model, tiny_model_dir)
    assert scores == pytest.approx(expected(tiny_model), abs=1e-4)
    assert tokens > 12 * 60


def test_a_cache_that_forgets_is_not_gone_on_from(tiny_model_dir):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = MistralForCausalLM(MistralConfig(vocab_size=200, sliding_window=8, num_key_value_heads=2, **shape)).eval()
    scores, _ = scored_by(PromptedLM, model, tiny_model_dir)
    assert scores == pytest.approx(expected(model), abs=1e-4)


def test_tokens_that_peft_puts_before_every_call_are_before_the_prompt_alone(tiny_model, tiny_model_dir):
    model = shaken(get_peft_model(tiny_model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)))
    scores, _ = scored_by(PromptedLM, model, tiny_model_dir)
    assert scores == pytest.approx(expected(model), abs=1e-4)
