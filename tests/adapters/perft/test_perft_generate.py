"""`generate` with PERFT in all its ways, and compiled models against eager ones."""

import pytest
import torch

from tests.conftest import shaken
from topiclora_cli.adapters import PerftConfig

FAMILIES = ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "deepseek_v3", "gpt_oss"]
CONFIGS = {
    "routed": {},
    "routed-pretrained-weights": {"router_weight_source": "pretrained", "router": "topic"},
    "routed-sparse": {"r": 4, "kernel": "sparse"},
    "embedded": {"variant": "embedded"},
    "shared": {"variant": "shared", "adapter_type": "parallel"},
}
IDS = torch.tensor([[5, 9, 12, 7, 30, 8], [0, 0, 0, 4, 21, 17]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
WAYS = {
    "without a cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "prompt in chunks": {"prefill_chunk_size": 2},
}
each_config = pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS.keys())
both = pytest.mark.parametrize("settings", [CONFIGS["routed"], CONFIGS["embedded"]], ids=["routed", "embedded"])


def generate(model, ids=IDS, mask=MASK, **options):
    options = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5, **options}
    return model.generate(input_ids=ids, attention_mask=mask, **options)


@pytest.fixture
def clean_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@each_config
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_takes_the_likeliest_of_the_full_forward(settings, family, moe_model, beside):
    model = shaken(beside(moe_model(family), **settings))
    ids = IDS[:1]
    found = generate(model, ids, MASK[:1], min_new_tokens=None, eos_token_id=None)
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, ids)


@each_config
def test_every_way_of_decoding_gives_the_same(settings, moe_model, beside):
    model = shaken(beside(moe_model(), **settings))
    expected, beams = generate(model), generate(model, num_beams=3)
    for way, options in WAYS.items():
        assert torch.equal(generate(model, **options), expected), way
        if "prefill_chunk_size" not in options:
            assert torch.equal(generate(model, num_beams=3, **options), beams), way
    alone = generate(model, IDS[1:, 3:], MASK[1:, 3:])
    assert torch.equal(alone[0, 3:], expected[1, 6:])  # left padding changes nothing


def assert_same(model, compiled, tokens):
    """Logits and gradients of the compiled model are those of the eager one."""
    results = []
    for each in (model, compiled):
        model.zero_grad()
        out = each(input_ids=tokens, use_cache=False).logits
        out.square().mean().backward()
        results.append({"out": out.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    eager, ours = results
    assert eager.keys() == ours.keys()
    for name, expected in eager.items():
        assert (ours[name] - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max().item()), name


@each_config
def test_a_model_compiles_whole(settings, moe_model, beside, clean_compiler):
    model = shaken(beside(moe_model(num_hidden_layers=1), **settings))
    model.set_experts_implementation("batched_mm")  # looping over experts the base itself cannot
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same(model, compiled, IDS)
    assert_same(model, compiled, IDS[:, :4])


@pytest.mark.slow
@both
def test_a_model_compiles_where_its_experts_cannot(settings, moe_model, beside, clean_compiler):
    model = shaken(beside(moe_model(num_hidden_layers=1), **settings))
    model.set_experts_implementation("eager")
    assert_same(model, torch.compile(model, backend="eager"), IDS)


def test_switching_variants_after_compiling_takes_effect(moe_model, beside, clean_compiler):
    model = shaken(beside(moe_model(num_hidden_layers=1)))
    model.set_experts_implementation("batched_mm")
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        first = compiled(input_ids=IDS).logits
        model.add_adapter("second", PerftConfig(variant="embedded", r=2, task_type="CAUSAL_LM"))
        model.set_adapter("second")
        second = compiled(input_ids=IDS).logits
        shaken(model, seed=7)
        third = compiled(input_ids=IDS).logits
        assert torch.equal(third, model(input_ids=IDS).logits)
    assert (first - second).abs().max() > 1e-2
    assert (second - third).abs().max() > 1e-2


@pytest.mark.slow
@both
def test_inductor(settings, moe_model, beside, clean_compiler):
    model = shaken(beside(moe_model(num_hidden_layers=1), **settings))
    model.set_experts_implementation("batched_mm")
    assert_same(model, torch.compile(model, fullgraph=True), IDS)
