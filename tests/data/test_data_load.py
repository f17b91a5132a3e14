"""Rows from every kind of source, and tokens from rows."""

import json

import pytest
from transformers import AutoTokenizer

from tests.conftest import DATA, needs_data
from topiclora_cli.data import Row, encode_rows, load_rows
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.data import DataSection

RECORDS = [
    {"question": "two plus two?", "answer": "four", "kind": "arithmetic"},
    {"question": "capital of Peru?", "answer": "Lima", "kind": None},
]
TEMPLATES = {"prompt": "{{ question }}\nAnswer:", "completion": "{{ answer }}"}


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return str(path)


def test_embedded_families_carry_their_topics():
    rows = load_rows(DataSection(per_family=2), seed=0)
    assert len(rows) == 32
    assert all(row.topics and row.completion.startswith(" ") for row in rows)


def test_local_file_with_templates_and_topics(jsonl):
    rows = load_rows(DataSection(source=jsonl, topics="kind", **TEMPLATES), seed=0)
    assert rows == [
        Row("two plus two?\nAnswer:", " four", ("arithmetic",)),
        Row("capital of Peru?\nAnswer:", " Lima", ()),
    ]
    assert len(load_rows(DataSection(source=jsonl, limit=1, **TEMPLATES), seed=0)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "{{ qestion }}"}, "data.prompt uses a missing column.*Columns: question, answer, kind"),
        ({"prompt": "{{ question "}, "not a valid Jinja"),
        ({"topics": "kidn"}, "data.topics uses a missing column: 'kidn'.*Columns: question, answer, kind"),
        ({"source": "/nowhere/at/all.jsonl"}, "data.source '/nowhere/at/all.jsonl' does not exist"),
    ],
)
def test_bad_sources_are_explained(jsonl, changes, message):
    with pytest.raises(TopicLoraError, match=message):
        load_rows(DataSection(**{"source": jsonl, **TEMPLATES, **changes}), seed=0)


def test_unreadable_suffix(tmp_path):
    (tmp_path / "rows.xlsx").write_text("")
    with pytest.raises(TopicLoraError, match=r"\.xlsx"):
        load_rows(DataSection(source=str(tmp_path / "rows.xlsx"), **TEMPLATES), seed=0)


def test_tokens_split_at_the_prompt_and_end_the_sequence(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    rows = load_rows(DataSection(per_family=2), seed=0)
    for encoded in encode_rows(rows, tokenizer, max_length=200):
        prompt = tokenizer(encoded.row.prompt)["input_ids"]
        assert encoded.input_ids[: encoded.prompt_length] == prompt
        assert encoded.input_ids[-1] == tokenizer.eos_token_id
        assert len(encoded.input_ids) > encoded.prompt_length + 1


def test_long_rows_are_left_out_and_nothing_left_is_an_error(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    rows = [Row("Answer:", " yes"), Row("Answer: " * 50, " yes")]
    assert len(encode_rows(rows, tokenizer, max_length=20)) == 1
    with pytest.raises(TopicLoraError, match="max_length"):
        encode_rows(rows[1:], tokenizer, max_length=20)


@needs_data
@pytest.mark.parametrize("task", ["commonsense", "math"])
@pytest.mark.parametrize("model", ["olmoe", "mixtral"])
def test_perft_recipes_read_what_llm_adapters_published(model, task):
    source = DATA / "train" / f"{task}_llm_adapters.parquet"
    data = load_recipe(f"perft-{model}-{task}", [f"data.source={source}", "data.limit=50"]).data
    for row in load_rows(data, seed=0):
        assert row.prompt.startswith("Below is an instruction that describes a task. Write a response")
        assert row.prompt.endswith("### Response:")
        assert row.completion.strip()
