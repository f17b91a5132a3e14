"""Mixtures from files of every kind, what is left out of them, and ready definitions on local copies."""

import csv
import json

import pyarrow.parquet
import pytest
from pyarrow import Table

from tests.conftest import DATA, needs_data
from topiclora_cli.data import Row, load_data
from topiclora_cli.data.clean import Contamination
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.recipe.sources import source_definitions
from topiclora_cli.topics.taxonomy import load_taxonomy

TEMPLATES = {"prompt": "{{ q }}", "completion": "{{ a }}"}
KEYWORDS = set(load_taxonomy("bigbench").names)


def records(name, size):
    return [{"q": f"{name} {i}?", "a": f"answer {i}"} for i in range(size)]


@pytest.fixture
def files(tmp_path):
    """The same kind of rows as jsonl (40), csv (30) and parquet (20), and a folder of jsonl."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records("a", 40)))
    with (tmp_path / "b.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["q", "a"])
        writer.writeheader()
        writer.writerows(records("b", 30))
    pyarrow.parquet.write_table(Table.from_pylist(records("c", 20)), tmp_path / "c.parquet")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records("d", 10)))
    return tmp_path


def section(files, *names, **settings):
    sources = [{"source": str(files / name), **TEMPLATES} for name in names]
    return DataSection(sources=sources, **settings)


def test_every_kind_of_file_in_one_mixture(files):
    data = load_data(section(files, "a.jsonl", "b.csv", "c.parquet", "d"), seed=0)
    assert [count.read for count in data.counts] == [40, 30, 20, 10]
    assert sorted(row.prompt for row in data.train) == sorted(
        r["q"] for n, s in zip("abcd", (40, 30, 20, 10), strict=True) for r in records(n, s)
    )
    assert {row.source for row in data.train[:20]} == {0, 1, 2, 3}


def test_filters_and_limits_of_a_source_and_of_the_mixture(files):
    sources = [
        {"source": str(files / "a.jsonl"), **TEMPLATES, "filter": "'1' in q", "limit": 5},
        {"source": str(files / "b.csv"), **TEMPLATES},
    ]
    data = load_data(DataSection(sources=sources, limit=30), seed=0)
    assert (data.counts[0].read, data.counts[0].filtered) == (14, 9)
    assert len(data.train) == 30
    assert all("1" in row.prompt for row in data.train if row.source == 0)


def test_duplicates_across_sources_go(files):
    (files / "again.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*records("A", 40), *records("new", 3)]))
    data = load_data(section(files, "a.jsonl", "again.jsonl", dedup="normalised"), seed=0)
    assert [count.duplicates for count in data.counts] == [0, 40]
    assert len(data.train) == 43


def test_contaminated_examples_go_and_are_counted(files):
    data = load_data(section(files, "a.jsonl", "b.csv"), seed=0, contaminated=Contamination(["A 7?", "b 3", "b 4"]))
    assert [count.contaminated for count in data.counts] == [1, 2]
    assert not {"a 7?", "b 3?", "b 4?"} & {row.prompt for row in data.train}


def test_the_held_out_share_depends_on_the_prompt_alone(files):
    alone = load_data(section(files, "a.jsonl", validation=0.25), seed=0)
    mixed = load_data(section(files, "c.parquet", "a.jsonl", validation=0.25), seed=5)
    held = {row.prompt for row in alone.validation}
    assert 3 <= len(held) <= 18
    assert held == {row.prompt for row in mixed.validation if row.source == 1}
    for data in (alone, mixed):
        assert not {row.prompt for row in data.train} & {row.prompt for row in data.validation}
        assert [c.held_out for c in data.counts] == [
            sum(row.source == n for row in data.validation) for n in range(len(data.counts))
        ]


def test_the_held_out_number_is_met(files):
    data = load_data(section(files, "a.jsonl", "b.csv", validation=12), seed=0)
    assert (len(data.validation), len(data.train)) == (12, 58)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filter": "q =="}, "data.sources.1.filter is not a valid Jinja expression"),
        ({"filter": "q == 'z'"}, "data.sources.1.filter drops all 30 rows"),
        ({"filter": "p == 'z'"}, "data.sources.1.filter uses a missing column.*Columns: q, a"),
        ({"prompt": "{{ p }}"}, "data.sources.1.prompt uses a missing column"),
        ({"completion": "{{ '' }}"}, "Nothing is left of the 30 rows of data.sources.1.*empty prompt or completion 30"),
        ({"source": "gms8k"}, "data.sources.1.source 'gms8k'.*Did you mean 'gsm8k'"),
        ({"split": "test", "source": "d"}, "Cannot read data.sources.1.source"),
        ({"source": "c.cvs.csv"}, "data.sources.1.source 'c.cvs.csv' does not exist. Looked for it from"),
    ],
)
def test_mistakes_name_the_source(files, monkeypatch, settings, message):
    monkeypatch.chdir(files)
    sources = [{"source": "a.jsonl", **TEMPLATES}, {"source": "b.csv", **TEMPLATES, **settings}]
    with pytest.raises(TopicLoraError, match=message):
        load_data(DataSection(sources=sources), seed=0)


@pytest.mark.parametrize("keep", [4, 8, 300])
def test_corrupt_parquet_is_one_error(files, keep):
    path = files / "c.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TopicLoraError, match=r"Cannot read data\.sources\.0\.source .*c\.parquet"):
        load_data(section(files, "c.parquet"), seed=0)


def test_nothing_left_after_holding_out_or_cleaning(files):
    with pytest.raises(TopicLoraError, match=r"data.validation \(70\) keeps all"):
        load_data(section(files, "a.jsonl", "b.csv", validation=70), seed=0)
    with pytest.raises(TopicLoraError, match="duplicates 40"):
        load_data(section(files, "a.jsonl", "a.jsonl", dedup="exact"), seed=0)


# Each definition on the copy at hand. Where that copy has another layout than the hub's, the keys that bridge it.
LOCAL = {
    "gsm8k": ("hub/openai/gsm8k", {}, "mathematics"),
    "mmlu": ("hub/cais/mmlu", {"config": "anatomy", "split": "test"}, None),
    "bigbench": ("bigbench/train.parquet", {}, "analogical reasoning"),
    "commonsense170k": ("train/commonsense_llm_adapters.parquet", {"filter": "split == 'train'"}, "common sense"),
    "math50k": ("train/math_llm_adapters.parquet", {}, "arithmetic"),
    "math10k": ("train/math_llm_adapters.parquet", {}, "arithmetic"),
    "alpaca": ("train/math_llm_adapters.parquet", {}, None),
    "flan_v2": ("train/flan_cot.parquet", {"prompt": "{{ question }}", "completion": "{{ rationale }}"}, None),
    "natural-instructions": (
        "train/natural_instructions.parquet",
        {"prompt": "{{ definition }}\n\n{{ input }}\nAnswer:", "completion": "{{ output[0] }}"},
        None,
    ),
}


@needs_data
@pytest.mark.parametrize("name", LOCAL)
def test_definitions_on_local_copies(name):
    path, bridge, topic = LOCAL[name]
    data = DataSection(sources=[{"name": name, "source": str(DATA / path), "limit": 200, **bridge}])
    rows = load_data(data, seed=0, known_topics=KEYWORDS).train
    assert len(rows) >= 100
    assert all(row.prompt.strip() and row.completion.strip() for row in rows)
    assert {tag for row in rows for tag in row.topics} <= KEYWORDS
    assert topic is None or any(topic in row.topics for row in rows)


def test_definitions_without_a_local_copy_read_the_documented_columns(tmp_path):
    rows = {
        "dolly": {"instruction": "Who?", "context": "Ann came.", "response": "Ann", "category": "closed_qa"},
        "flan_v2": {"inputs": "Q: who?", "targets": "Ann", "task": "t"},
        "natural-instructions": {"definition": "Answer.", "inputs": "who?", "targets": "Ann"},
        "alpaca": {"instruction": "Who?", "input": "", "output": "Ann", "text": ""},
    }
    for name, record in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(record) + "\n")
        (row,) = load_data(DataSection(name=name, source=str(path)), seed=0).train
        assert row.completion == " Ann"
        assert "who?" in row.prompt.lower()
    assert set(LOCAL) | set(rows) == set(source_definitions())


@needs_data
def test_wording_of_the_definitions():
    def first(name, **keys):
        return load_data(DataSection(name=name, limit=1, **keys), seed=0, known_topics=KEYWORDS).train[0]

    mmlu = first("mmlu", source=str(DATA / "hub/cais/mmlu"), config="abstract_algebra", split="dev")
    assert mmlu == Row(
        "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer:", " B", ()
    )
    gsm8k = first("gsm8k", source=str(DATA / "hub/openai/gsm8k"))
    assert gsm8k.prompt.startswith("Question: ")
    assert "\n#### " in gsm8k.completion


@needs_data
def test_bigbench_has_choices_answers_and_keywords():
    source = str(DATA / "bigbench" / "train.parquet")
    rows = load_data(DataSection(name="bigbench", source=source), seed=0, known_topics=KEYWORDS).train
    assert len(rows) > 17_000
    choice = [row for row in rows if "\nA. " in row.prompt]
    assert len(choice) > 5_000
    assert all(len(row.completion) == 2 for row in choice if row.prompt.count("\nA. ") == 1)
    assert sum(bool(row.topics) for row in rows) > 0.9 * len(rows)


@needs_data
def test_training_on_gsm8k_is_not_contaminated_by_its_test_but_a_copy_is():
    folder = str(DATA / "hub/openai/gsm8k")
    test = load_data(DataSection(name="gsm8k", source=folder, split="test"), seed=0).train
    overlap = Contamination([row.prompt.removeprefix("Question: ").removesuffix("\nAnswer:") for row in test])
    train = load_data(DataSection(name="gsm8k", source=folder), seed=0, contaminated=overlap)
    assert train.counts[0].contaminated < 100
    assert sum(overlap(row) for row in test) == len(test)
