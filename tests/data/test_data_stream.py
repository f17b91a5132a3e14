"""Examples as they are needed: the same ones, in the wanted shares, for ever, with the priors of the base alone."""

import json
from collections import Counter
from itertools import islice

import pytest
import torch
from peft import get_peft_model
from transformers import AutoTokenizer

from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.data import load_data
from topiclora_cli.data.reading import Reader
from topiclora_cli.data.stream import ExampleStream
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.topics.prior import PriorBatch
from topiclora_cli.training.attach import without_adapter


@pytest.fixture
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def source(path, answer, size, **keys):
    path.write_text("".join(json.dumps({"q": "Sort " * (i % 40 + 1), "i": i}) + "\n" for i in range(size)))
    return {"source": str(path), "prompt": "{{ q }} {{ i }}", "completion": answer, **keys}


def stream(tokenizer, data, seed=0, priors=None, **reader):
    return ExampleStream(data, Reader(seed=seed, streaming=True, **reader), tokenizer, priors)


@pytest.fixture
def mixture(tmp_path):
    sources = [source(tmp_path / "a.jsonl", "yes", 50, weight=3), source(tmp_path / "b.jsonl", "no", 400, weight=1)]
    return DataSection(sources=sources, streaming=True)


def test_sources_are_drawn_by_weight_and_start_over(tokenizer, mixture):
    yes = tokenizer("yes")["input_ids"][0]
    records = list(islice(stream(tokenizer, mixture), 1000))
    share = sum(record["input_ids"][record["prompt_length"]] == yes for record in records) / 1000
    assert share == pytest.approx(0.75, abs=0.05)
    again = list(islice(stream(tokenizer, mixture), 1000))
    assert records == again
    assert records != list(islice(stream(tokenizer, mixture, seed=1), 1000))


def test_a_pass_has_every_example_once_and_the_next_another_order(tokenizer, tmp_path):
    data = DataSection(**source(tmp_path / "a.jsonl", "yes", 30), streaming=True)
    rows = list(islice(stream(tokenizer, data)._mixed(), 60))
    first, second = ([row.prompt for row in part] for part in (rows[:30], rows[30:]))
    assert len(set(first)) == 30
    assert sorted(first) == sorted(second)
    assert first != second


def test_what_is_measured_on_is_never_trained_on(tokenizer, tmp_path):
    data = DataSection(**source(tmp_path / "a.jsonl", "yes", 100), streaming=True, validation=0.3)
    held_out = {row.prompt for row in load_data(data, seed=0).validation}
    assert 15 < len(held_out) < 45
    counts = Counter(row.prompt for row in islice(stream(tokenizer, data)._mixed(), 400))
    assert len(counts) + len(held_out) == 100
    assert not set(counts) & held_out


def test_priors_belong_to_their_prompts_and_too_long_examples_go(tokenizer, tmp_path):
    data = DataSection(**source(tmp_path / "a.jsonl", "yes", 100), streaming=True, max_length=20)

    def priors(prompts):
        length = torch.tensor([[len(tokenizer(prompt)["input_ids"]), 0.0] for prompt in prompts])
        return PriorBatch(length, torch.ones(len(prompts)), length)

    records = list(islice(stream(tokenizer, data, priors=priors), 300))
    assert all(record["prior"][0] == record["prompt_length"] for record in records)
    assert max(len(record["input_ids"]) for record in records) == 20


def test_a_file_that_breaks_off_is_one_error(tokenizer, tmp_path):
    data = DataSection(**source(tmp_path / "a.jsonl", "yes", 20), streaming=True)
    (tmp_path / "a.jsonl").write_text('{"q": "x", "i": 1}\n{"q": ')
    with pytest.raises(TopicLoraError, match=r"Cannot read data\.source"):
        next(iter(stream(tokenizer, data)))


def test_nothing_to_read_is_an_error_and_no_endless_search(tokenizer, tmp_path):
    data = DataSection(**source(tmp_path / "a.jsonl", "yes", 20), streaming=True)
    with pytest.raises(TopicLoraError, match="has no examples"):
        next(iter(stream(tokenizer, data, contaminated=lambda row: True)))


def test_the_base_is_read_without_the_adapter_and_the_same_parts_train_after(tiny_model):
    tokens = torch.randint(3, 60, (1, 8))
    plain = tiny_model(tokens).logits
    model = get_peft_model(
        tiny_model, TopicLoraConfig(r=2, num_experts=4, top_k=2, target_modules="all-linear", train_experts=False)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "topiclora_B" in name:
                parameter.fill_(0.5)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trains) < sum("topiclora" in name or "lora_" in name for name, _ in model.named_parameters())
    assert not torch.equal(model(tokens).logits, plain)
    with without_adapter(model):
        torch.testing.assert_close(model(tokens).logits, plain)
        torch.testing.assert_close(model.get_base_model()(tokens).logits, plain)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trains
    assert not torch.equal(model(tokens).logits, plain)
