"""Threads that share a model get what each gets alone: a server runs requests in threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from peft import get_peft_model

from tests.adapters.helpers import TOKENS, assert_same_gradients, gradients
from topiclora_cli.adapters import PerftConfig, prompt_tokens, record_routing
from topiclora_cli.adapters.perft import PerftLayer

CONFIGS = {
    "group-scope": {"top_k": 2, "router_scope": "group"},
    "layer-scope": {"router": "linear", "router_scope": "layer"},
    "ffn": {"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn"},
    "prompt": {"granularity": "prompt", "router_scope": "block"},
    "hierarchical": {"router": "hierarchical"},
    "perft-embedded": None,
}
THREADS = 4
BATCHES = [(TOKENS + shift)[: 1 + shift % 2, : 3 + shift] for shift in range(THREADS)]
# What waits for the others: layers between those that share something.
MEETING_PLACES = ("embed_tokens", "layers.0.self_attn.k_proj", "layers.0.self_attn.o_proj", "layers.1.mlp.up_proj")


@pytest.fixture(params=CONFIGS, ids=CONFIGS.keys())
def model(request, family_model, adapted, shaken):
    settings = CONFIGS[request.param]
    if settings is not None:
        return shaken(adapted(family_model("llama"), **settings))
    config = PerftConfig(variant="embedded", r=2, task_type="CAUSAL_LM")
    return shaken(get_peft_model(family_model("olmoe"), config))


@pytest.fixture
def in_threads(model):
    """A function: runs a function of a batch in as many threads as there are batches, all in step with one another."""
    barrier, met = threading.Barrier(THREADS), []

    def meet(*_):
        barrier.wait(60)

    def one(function, batch):
        try:
            return function(batch)
        except BaseException:
            barrier.abort()  # nobody waits for who will not come
            raise

    def run(function):
        for name, module in model.named_modules():
            if name.endswith(MEETING_PLACES):
                met.append(module.register_forward_pre_hook(meet))
            if isinstance(module, PerftLayer):
                met.append(module.get_base_layer().register_forward_hook(meet))
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                return list(pool.map(partial(one, function), BATCHES))
        finally:
            for handle in met:
                handle.remove()

    return run


def test_forward(model, in_threads):
    def run(batch):
        with torch.no_grad():
            return model(input_ids=batch).logits

    for actual, batch in zip(in_threads(run), BATCHES, strict=True):
        torch.testing.assert_close(actual, run(batch), atol=1e-5, rtol=0)


def test_generate(model, in_threads):
    def run(batch):
        return model.generate(input_ids=batch, do_sample=False, max_new_tokens=3, min_new_tokens=3)

    for actual, batch in zip(in_threads(run), BATCHES, strict=True):
        assert torch.equal(actual, run(batch))


def test_prompts_and_records_belong_to_a_thread(model, in_threads):
    def run(batch):
        mask = torch.arange(batch.shape[1]).expand_as(batch) < 2
        with prompt_tokens(mask), record_routing(model) as record, torch.no_grad():
            return model(input_ids=batch).logits, record.gates

    for (actual, gates), batch in zip(in_threads(run), BATCHES, strict=True):
        expected, recorded = run(batch)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
        assert gates.keys() == recorded.keys()
        for name, values in recorded.items():
            torch.testing.assert_close(gates[name], values, atol=1e-5, rtol=0)


def test_checkpointing_may_run_again_in_another_thread(model):
    mask = torch.arange(6).expand(2, -1) < 4
    model.train()
    with prompt_tokens(mask):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with prompt_tokens(mask):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
    with torch.no_grad():
        model(input_ids=TOKENS[:, :3])
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert_same_gradients(gradients(model), expected)
