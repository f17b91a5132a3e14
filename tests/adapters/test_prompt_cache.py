"""Routing by prompt outside the trainer: the mean belongs to the cache, whatever is done with it, by any name."""

import copy
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from tests.adapters.helpers import TOKENS, assert_same_gradients, gradients, logits
from topiclora_cli.adapters import TopicLoraConfig, prompt_tokens
from topiclora_cli.errors import TopicLoraError

CONFIGS = {
    "prompt": {"granularity": "prompt"},
    "hierarchical": {"router": "hierarchical", "router_scope": "layer"},
}
PROMPT = torch.arange(6).expand(2, -1) < 4


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def model(request, family_model, adapted, shaken):
    return shaken(adapted(family_model("llama"), **request.param))


@pytest.fixture
def pooled(family_model, adapted, shaken):
    return shaken(adapted(family_model("llama"), granularity="prompt"))


@torch.no_grad()
def filled(model, tokens):
    cache = DynamicCache(config=model.config)
    model(input_ids=tokens, past_key_values=cache, use_cache=True)
    return cache


@torch.no_grad()
def followed(model, cache, tokens):
    return model(input_ids=tokens, past_key_values=cache, use_cache=True).logits


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def full(model, tokens, length):
    """Logits behind a prompt of this length, without a cache."""
    with prompt_tokens(torch.ones(len(tokens), length)):
        return logits(model, tokens, use_cache=False)[:, length:]


def test_two_caches_in_turns(model):
    other = TOKENS.flip(0, 1)[:, :5]
    caches = filled(model, TOKENS[:, :4]), filled(model, other[:, :3])
    first = [followed(model, caches[0], TOKENS[:, 4:5])]
    second = [followed(model, caches[1], other[:, 3:4])]
    first.append(followed(model, caches[0], TOKENS[:, 5:]))
    second.append(followed(model, caches[1], other[:, 4:]))
    close(torch.cat(first, 1), full(model, TOKENS, 4))
    close(torch.cat(second, 1), full(model, other, 3))


def test_a_copied_cache_goes_on_by_itself(model):
    cache = filled(model, TOKENS[:, :4])
    duplicate = copy.deepcopy(cache)
    followed(model, cache, TOKENS[:, 4:] + 1)
    close(followed(model, duplicate, TOKENS[:, 4:]), full(model, TOKENS, 4))


def test_a_repeated_cache_serves_every_copy_of_a_row(model):
    cache = filled(model, TOKENS[:, :4])
    cache.batch_repeat_interleave(2)
    repeated = TOKENS.repeat_interleave(2, 0)
    close(followed(model, cache, repeated[:, 4:]), full(model, repeated, 4))


def test_a_cache_cropped_inside_its_prompt_holds_a_shorter_one(model):
    cache = filled(model, TOKENS[:, :5])
    cache.crop(-2)
    close(followed(model, cache, TOKENS[:, 3:]), full(model, TOKENS, 3))


def test_a_cropped_cache_filled_anew_holds_the_new_prompt(model):
    other = torch.cat([TOKENS[:, :2], TOKENS[:, 2:].flip(1)], 1)
    cache = filled(model, TOKENS)
    cache.crop(-4)
    with prompt_tokens(PROMPT):
        chunk = followed(model, cache, other[:, 2:5])
    close(torch.cat([chunk, followed(model, cache, other[:, 5:])], 1)[:, 2:], full(model, other, 4))


def test_the_decoder_called_by_itself_routes_as_within_the_model(model):
    decoder, head = model.get_base_model().model, model.get_base_model().lm_head
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        decoder(TOKENS[:, :4], torch.ones(2, 4), None, cache)  # all of it by position
        rest = decoder(TOKENS[:, 4:], torch.ones(2, 6), None, cache).last_hidden_state
        close(head(rest), full(model, TOKENS, 4))


def test_another_turn_with_the_answers_as_prompt_is_refused(pooled):
    cache = filled(pooled, TOKENS[:, :3])
    followed(pooled, cache, TOKENS[:, 3:4])
    with prompt_tokens(torch.ones(2, 6)), pytest.raises(TopicLoraError, match="other tokens counted"):
        followed(pooled, cache, TOKENS[:, 4:])
    with prompt_tokens(torch.tensor([[1, 1, 1, 0, 1, 1]]).expand(2, -1)):
        expected = logits(pooled, TOKENS, use_cache=False)[:, 4:]
        close(followed(pooled, cache, TOKENS[:, 4:]), expected)


@pytest.mark.parametrize("padded", [False, True])
def test_generating_without_a_mask_takes_what_is_given_for_the_prompt(padded, model):
    ids = TOKENS if not padded else torch.cat([torch.zeros(2, 2, dtype=torch.long), TOKENS], 1)
    options = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
    expected = model.generate(ids, attention_mask=(ids != 0).long(), **options)
    assert torch.equal(model.generate(ids, **options), expected)
    assert torch.equal(model.generate(input_ids=ids, use_cache=False, **options), expected)


class Decoder(nn.Module):
    """Counts tokens in a cache, which it takes by whatever name."""

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(8, 8)

    def forward(self, x, cache=None, **others):
        return self.q_proj(x)


class Counter:
    def __init__(self, length):
        self.length = length

    def get_seq_length(self):
        return self.length


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params", "position"])
def test_a_cache_is_found_by_any_of_its_names(name, shaken):
    config = TopicLoraConfig(r=2, num_experts=4, granularity="prompt", router="linear", target_modules=["q_proj"])
    model = shaken(get_peft_model(Decoder(), config))
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    cache = Counter(0)

    def run(part):
        return model(part, cache) if name == "position" else model(part, **{name: cache})

    with torch.no_grad():
        with prompt_tokens(torch.ones(2, 4)):
            expected = model(x)[:, 4:]
        run(x[:, :4])
        cache.length = 4
        close(run(x[:, 4:]), expected)


@pytest.mark.parametrize(
    ("cache", "message"),
    [(((torch.ones(1), torch.ones(1)),), "counts its tokens"), (Counter(3), "did not see its prompt")],
)
def test_a_cache_of_unknown_content_is_refused(cache, message, shaken):
    config = TopicLoraConfig(r=2, num_experts=4, granularity="prompt", router="linear", target_modules=["q_proj"])
    model = shaken(get_peft_model(Decoder(), config))
    with pytest.raises(TopicLoraError, match=message):
        model(torch.randn(2, 1, 8), past_key_values=cache)


def test_a_recurrent_state_is_refused_and_decoding_without_it_works(shaken):
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "pad_token_id": 0}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", eos_token_id=1, bos_token_id=2, **sizes))
    config = TopicLoraConfig(r=2, num_experts=4, granularity="prompt", router="linear", target_modules=["in_proj"])
    model = shaken(get_peft_model(base, config))
    with pytest.raises(TopicLoraError, match="counts its tokens"):
        model.generate(input_ids=TOKENS, max_new_tokens=2)
    assert model.generate(input_ids=TOKENS, max_new_tokens=2, min_new_tokens=2, use_cache=False).shape == (2, 8)


def test_a_head_that_reads_selected_tokens_alone_is_refused(family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama"), granularity="prompt", target_modules=["lm_head", "q_proj"]))
    close(followed(model, filled(model, TOKENS[:, :4]), TOKENS[:, 4:]), full(model, TOKENS, 4))
    with pytest.raises(TopicLoraError, match="lm_head reads 2 of 6"):
        logits(model, logits_to_keep=2)


def test_examples_packed_in_a_row_are_refused(pooled):
    positions = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
    with pytest.raises(TopicLoraError, match="packed in a row"):
        logits(pooled, TOKENS, position_ids=positions)
    with pooled.disable_adapter():
        logits(pooled, TOKENS, position_ids=positions)
    for left in ([0, 0, 0, 1, 2, 3], [1, 1, 0, 1, 2, 3]):  # padding by our collator, and by generate
        mask = torch.tensor([[0, 0, 1, 1, 1, 1]]).expand(2, -1)
        logits(pooled, TOKENS, position_ids=torch.tensor([left]).expand(2, -1), attention_mask=mask)


def test_training_without_a_prompt_mask_warns_once(pooled):
    pooled.train()
    with pytest.warns(UserWarning, match="without a prompt mask"):
        pooled(input_ids=TOKENS, labels=TOKENS).loss.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pooled(input_ids=TOKENS, labels=TOKENS).loss.backward()
    fresh = copy.deepcopy(pooled)
    with warnings.catch_warnings(), prompt_tokens(PROMPT):
        warnings.simplefilter("error")
        fresh(input_ids=TOKENS, labels=TOKENS).loss.backward()


def test_what_the_trainer_learns_is_what_decoding_runs(model):
    with prompt_tokens(PROMPT):
        model.train()
        trained = model(input_ids=TOKENS).logits[:, 4:]
    close(followed(model.eval(), filled(model, TOKENS[:, :4]), TOKENS[:, 4:]), trained)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_runs_each_call_again_with_its_own_prompt(reentrant, model):
    """In float64: gradients add up in another order, which rounds."""
    model.double().train()
    model.enable_input_require_grads()
    masks = [PROMPT, torch.arange(6).expand(2, -1) < 2]

    def loss(mask):
        with prompt_tokens(mask):
            return model(input_ids=TOKENS, labels=TOKENS).loss

    for mask in masks:
        loss(mask).backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    losses = [loss(mask) for mask in masks]
    with prompt_tokens(PROMPT[:, :3]):
        model(input_ids=TOKENS[:, :3])
    sum(losses).backward()
    assert_same_gradients(gradients(model), expected, atol=1e-10)


def test_checkpointing_may_run_layers_again_where_no_output_lay(pooled):
    """As on a model over several GPUs, each of which has a thread of its own for backward."""
    pooled.double().train()
    pooled.enable_input_require_grads()
    with prompt_tokens(PROMPT):
        pooled(input_ids=TOKENS, labels=TOKENS).loss.backward()
    expected = gradients(pooled)
    pooled.zero_grad()
    pooled.gradient_checkpointing_enable({"use_reentrant": True})
    attention = pooled.get_base_model().model.layers[0].self_attn
    forward = attention.forward

    def elsewhere(*args, **kwargs):
        if not torch.is_grad_enabled():  # the first run
            return forward(*args, **kwargs)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(forward, *args, **kwargs).result()

    attention.forward = elsewhere
    with prompt_tokens(PROMPT):
        loss = pooled(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    assert_same_gradients(gradients(pooled), expected, atol=1e-10)
