"""The recipe's data section: one source or several, ready definitions, and what is refused."""

import pytest
import yaml

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import dump_recipe, load_recipe
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.recipe.sources import source_definitions

FILE = {"source": "a.jsonl", "prompt": "{{ q }}", "completion": "{{ a }}"}


def write(tmp_path, data):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"name": "r", "model": {"name": "m"}, "data": data}))
    return str(path)


def test_the_embedded_families_are_the_default():
    assert DataSection().source == "quickstart"
    assert [source.source for source in DataSection().all_sources] == ["quickstart"]


def test_a_definition_by_name_and_its_keys_replaced(tmp_path):
    data = load_recipe(write(tmp_path, {"source": "gsm8k", "limit": 10})).data
    assert (data.source, data.config, data.limit) == ("openai/gsm8k", "main", 10)
    assert data.prompt == source_definitions()["gsm8k"]["prompt"]
    local = load_recipe(write(tmp_path, {"name": "gsm8k", "source": "./mine", "topics": None})).data
    assert (local.source, local.config, local.topics) == ("./mine", "main", None)
    assert local.label == "gsm8k"


def test_a_mixture_resolves_and_round_trips(tmp_path):
    sources = [{"source": "gsm8k", "weight": 2}, {**FILE, "weight": 1, "topics": {"file": "t.csv", "key": "{{ q }}"}}]
    recipe = load_recipe(write(tmp_path, {"sources": sources, "validation": 100}), ["data.sources.1.limit=7"])
    assert [source.label for source in recipe.data.all_sources] == ["gsm8k", "a.jsonl"]
    assert recipe.data.sources[1].limit == 7
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(str(again)) == recipe


def test_another_definition_fills_in_its_own_templates(tmp_path):
    stored = tmp_path / "stored.yaml"
    stored.write_text(dump_recipe(load_recipe(write(tmp_path, {"source": "gsm8k"}))))
    other = load_recipe(str(stored), ["data.source=dolly"])
    assert other == load_recipe(write(tmp_path, {"source": "dolly"}))


def test_every_definition_is_a_source():
    for name, keys in source_definitions().items():
        section = DataSection(name=name, source=keys.get("source", "local.parquet"))
        assert section.prompt
        assert section.completion


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "gms8k"}, "data: no source definition is called 'gms8k'. Did you mean 'gsm8k'"),
        ({"source": "bigbench"}, "'bigbench' is on no hub; set source"),
        ({"sources": [{**FILE, "weight": 0}]}, "data.sources.0.weight: .*greater than 0.*given: 0"),
        ({"sources": [{**FILE, "weight": -1}]}, "data.sources.0.weight: .*greater than 0"),
        ({"sources": [{**FILE, "weight": float("nan")}]}, "data.sources.0.weight"),
        ({"sources": [{**FILE, "weight": 1}, FILE]}, "give every source a weight, or none"),
        ({"sources": [{**FILE, "promt": "x"}]}, "unknown key 'data.sources.0.promt'.*Did you mean 'prompt'"),
        ({"sources": [{"source": "a.jsonl", "prompt": "x"}]}, "data.sources.0: prompt and completion belong together"),
        ({**FILE, "format": "alpaca"}, "format: alpaca reads columns of its own, not those of prompt"),
        ({"source": "a.jsonl", "messages": "m", "format": "alpaca"}, "not those of messages"),
        ({"source": "a.jsonl", "format": "vicuna"}, "data.format: .*'sharegpt'"),
        ({"format": "openai"}, "'quickstart' has no columns for format"),
        ({"sources": [{"prompt": "x", "completion": "y"}]}, "data.sources.0: a source is missing"),
        ({"sources": [FILE], "prompt": "x"}, "prompt belongs to each of data.sources"),
        ({"sources": [FILE], "source": "b.jsonl"}, "source belongs to each of data.sources"),
        ({**FILE, "messages": "talk"}, "messages and prompt with completion exclude one another"),
        ({"source": "quickstart", "filter": "x"}, "'quickstart' has no columns for filter"),
        ({**FILE, "validation": 1.5}, "a share below 1 or a whole number"),
        ({**FILE, "validation": 0}, "data.validation"),
        ({**FILE, "topics": {"file": "t.csv", "kye": "x"}}, "data.topics.*'kye'|data.topics"),
        ({**FILE, "streaming": True, "dedup": "exact"}, "a stream is not searched for duplicates"),
        ({**FILE, "streaming": True, "validation": 10}, "of a stream, validation keeps a share"),
        ({"sources": [FILE, FILE], "streaming": True}, "needs their weights"),
        ({**FILE, "streaming": True}, "data.streaming has no end; set train.max_steps"),
        ({**FILE, "stopping_strategy": "never"}, "data.stopping_strategy: .*'first_exhausted'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, data, message):
    with pytest.raises(TopicLoraError, match=message):
        load_recipe(write(tmp_path, data))


def test_an_override_of_an_item_that_is_not_there(tmp_path):
    with pytest.raises(TopicLoraError, match=r"--set data.sources.1.limit: no item '1' in a list of 1"):
        load_recipe(write(tmp_path, {"sources": [FILE]}), ["data.sources.1.limit=7"])
