"""A file of one's own definitions of training sets, beside the ready ones."""

import pytest
import yaml

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import dump_recipe, load_recipe
from topiclora_cli.recipe.sources import source_definitions

OWN = {
    "chats": {"source": "chats.jsonl", "prompt": "{{ q }}", "completion": "{{ a }}", "limit": 5},
    "sums": {"name": "gsm8k", "limit": 7},
    "dolly": {"source": "mine/dolly", "prompt": "{{ q }}", "completion": "{{ a }}"},
    "_shared": {"limit": 1},
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chats.jsonl").touch()
    (tmp_path / "data" / "own.yaml").write_text(yaml.safe_dump(OWN))

    def load(data, *overrides):
        path = tmp_path / "r.yaml"
        data = {"sources_file": "data/own.yaml", **data}
        path.write_text(yaml.safe_dump({"name": "r", "model": {"name": "m"}, "data": data}))
        return load_recipe(str(path), overrides)

    return load


def test_own_definitions_are_found_by_name_and_their_keys_replaced(recipe, tmp_path):
    data = recipe({"sources": [{"source": "chats", "limit": 3}, {"source": "sums"}, {"name": "dolly"}]}).data
    chats, sums, dolly = data.sources
    assert (chats.source, chats.limit, chats.prompt) == (str(tmp_path / "data" / "chats.jsonl"), 3, "{{ q }}")
    assert (sums.label, sums.source, sums.limit) == ("gsm8k", "openai/gsm8k", 7)
    assert sums.prompt == source_definitions()["gsm8k"]["prompt"]
    assert (dolly.source, dolly.prompt) == ("mine/dolly", "{{ q }}")
    assert recipe({"source": "chats"}).data.limit == 5
    assert recipe({"source": "gsm8k"}, "data.source=sums").data.limit == 7


def test_a_definition_may_be_called_by_a_number(recipe, tmp_path):
    (tmp_path / "data" / "own.yaml").write_text("1: {source: chats.jsonl}")
    assert recipe({"source": 1}).data.source == str(tmp_path / "data" / "chats.jsonl")


def test_a_run_keeps_the_keys_and_needs_the_file_no_more(recipe, tmp_path):
    made = recipe({"source": "chats"})
    kept = tmp_path / "kept.yaml"
    kept.write_text(dump_recipe(made))
    (tmp_path / "data" / "own.yaml").unlink()
    assert load_recipe(str(kept)) == made
    assert made.data.sources_file is None


@pytest.mark.parametrize(
    ("data", "text", "message"),
    [
        ({"name": "chat"}, None, "No source definition is called 'chat'.*Did you mean 'chats'"),
        ({"sources_file": "gone.yaml"}, None, "data.sources_file 'gone.yaml' cannot be read: No such file.*from"),
        ({"source": "chats"}, "chats: [", "data.sources_file 'data/own.yaml' cannot be read"),
        ({"source": "chats"}, "- chats", "is no mapping of names to keys of a source"),
        ({"source": "chats"}, "chats: {source: a.jsonl, promt: x}", "unknown key 'data.promt'.*Did you mean 'prompt'"),
        ({"source": "chats"}, "chats: {name: chats, source: a.jsonl}", "'chats' builds on 'chats' of the same file"),
        ({"source": ["chats", "sums"]}, None, r"data.source: Input should be a valid string \(given: \['chats', 's"),
        ({"name": ["chats"]}, None, r"definition is called \['chats'\]"),
    ],
)
def test_mistakes_are_one_line(recipe, tmp_path, data, text, message):
    if text is not None:
        (tmp_path / "data" / "own.yaml").write_text(text)
    with pytest.raises(TopicLoraError, match=message):
        recipe(data)
