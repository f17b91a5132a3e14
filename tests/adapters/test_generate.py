"""`generate` in all its ways gives what plain greedy decoding gives, and compiled models what eager ones give."""

import pytest
import torch

from topiclora_cli.adapters import prompt_tokens
from topiclora_cli.errors import TopicLoraError

CONFIGS = {
    "token": {"router": "linear", "top_k": 2},
    "prompt": {"granularity": "prompt"},
    "layer-scope": {"top_k": 2, "router_scope": "layer"},
    "layer-scope-by-prompt": {"router_scope": "layer", "granularity": "prompt"},
    "hierarchical": {"router": "hierarchical", "router_scope": "group"},
    "ffn": {"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn"},
    "sparse": {"r": 4, "top_k": 2, "kernel": "sparse"},
    "shared-experts": {"top_k": 2, "shared_experts": 2, "shared_gate": "softmax"},
}
BY_PROMPT = ["prompt", "layer-scope-by-prompt", "hierarchical"]
PROMPTS = [[5, 9, 12, 7, 30, 8], [4, 21, 17]]
IDS = torch.tensor([[5, 9, 12, 7, 30, 8], [0, 0, 0, 4, 21, 17]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
WAYS = {
    "without a cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "prompt in chunks": {"prefill_chunk_size": 2},
}
each_config = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(scope="module")
def models(family_model, adapted, shaken):
    made = {}

    def get(name, family="llama"):
        if (name, family) not in made:
            made[name, family] = shaken(adapted(family_model(family), **CONFIGS[name]))
        return made[name, family]

    return get


def generate(model, ids=IDS, mask=MASK, **options):
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6, **options}
    return model.generate(input_ids=ids, attention_mask=mask, **options)


@each_config
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_every_way_of_decoding_gives_the_same(name, family, models):
    model = models(name, family)
    expected = generate(model)
    for way, options in WAYS.items():
        assert torch.equal(generate(model, **options), expected), way


@each_config
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_left_padded_batch_gives_what_each_prompt_gives_alone(name, family, models):
    model = models(name, family)
    batch = generate(model)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.long))
        assert torch.equal(alone[0, len(prompt) :], batch[row, IDS.shape[1] :])


@each_config
def test_beams(name, models):
    model = models(name)
    expected = generate(model, num_beams=3)
    assert torch.equal(generate(model, num_beams=3, use_cache=False), expected)
    assert torch.equal(generate(model, num_beams=3, cache_implementation="static"), expected)


@each_config
def test_sampling_repeats_with_its_seed(name, models):
    model = models(name)  # made before the seed is set: making it draws
    drawn = []
    for seed, cache in ((3, True), (3, True), (3, False), (4, True)):
        torch.manual_seed(seed)
        drawn.append(generate(model, do_sample=True, use_cache=cache))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


@each_config
def test_speculation_changes_nothing(name, models):
    ids = torch.tensor([[5, 9, 12, 5, 9, 12, 5, 9]])
    expected = generate(models(name), ids, torch.ones_like(ids))
    speculated = generate(models(name), ids, torch.ones_like(ids), prompt_lookup_num_tokens=3)
    assert torch.equal(speculated, expected)


@pytest.mark.parametrize("name", BY_PROMPT)
@pytest.mark.parametrize("way", [*WAYS, "plain"])
def test_through_transformers_alone(name, way, models, family_model, tmp_path):
    expected = generate(models(name))
    models(name).save_pretrained(tmp_path)
    model = family_model("llama")
    model.load_adapter(str(tmp_path))
    with prompt_tokens(MASK):
        assert torch.equal(generate(model, **WAYS.get(way, {})), expected)
    if way in ("plain", "static cache"):  # these need not be told
        assert torch.equal(generate(model, **WAYS.get(way, {})), expected)


def test_going_on_from_a_cache_that_another_filled_is_refused(models):
    model = models("prompt")
    with torch.no_grad(), model.disable_adapter():
        cache = model(input_ids=IDS[:1], use_cache=True).past_key_values
    generate(model)  # leaves the state of two rows behind
    cache.batch_repeat_interleave(3)
    with pytest.raises(TopicLoraError, match="did not see its prompt"), torch.no_grad():
        model(input_ids=torch.tensor([[3], [3], [3]]), past_key_values=cache)


def test_a_prompt_mask_of_other_rows_is_refused(models):
    with pytest.raises(TopicLoraError, match="2 rows"), prompt_tokens(MASK), torch.no_grad():
        models("prompt")(input_ids=IDS[:1])
