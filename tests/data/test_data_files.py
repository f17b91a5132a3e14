"""Files by pattern and packed ones are read as the same rows would be from one plain file; mistakes name the line."""

import json

import pyarrow
import pytest

from topiclora_cli.data import load_data
from topiclora_cli.data.files import file_states, looks_local
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection

TEMPLATES = {"prompt": "{{ q }}", "completion": "{{ a }}"}


def lines(*names):
    return "".join(json.dumps({"q": f"{name}é?", "a": name}) + "\n" for name in names)


def answers(source, **keys):
    return [row.answer for row in load_data(DataSection(source=str(source), **{**TEMPLATES, **keys}), seed=0).train]


def pack(path, text, kind):
    with pyarrow.CompressedOutputStream(str(path), kind) as file:
        file.write(text.encode())


@pytest.mark.parametrize(("suffix", "kind"), [(".gz", "gzip"), (".zst", "zstd"), (".bz2", "bz2")])
def test_packed_text_reads_as_it_does_unpacked(tmp_path, suffix, kind):
    pack(tmp_path / f"d.jsonl{suffix}", lines("one", "two"), kind)
    pack(tmp_path / f"d.json{suffix}", json.dumps([{"q": "1", "a": "x\ny"}]), kind)
    pack(tmp_path / f"d.csv{suffix}", 'q;a\r\n1;"x\r\ny"\r\n', kind)
    assert answers(tmp_path / f"d.jsonl{suffix}") == ["one", "two"]
    assert answers(tmp_path / f"d.json{suffix}") == ["x\ny"]
    assert answers(tmp_path / f"d.csv{suffix}") == ["x\r\ny"]


def test_a_pattern_reads_all_its_files_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b.jsonl").write_text(lines("third"))
    (tmp_path / "a.jsonl").write_text(lines("first", "second"))
    (tmp_path / "deep").mkdir()
    pack(tmp_path / "deep" / "c.jsonl.gz", lines("fourth"), "gzip")
    (tmp_path / "notes.txt").write_text("no table")
    assert answers(tmp_path / "*.jsonl") == ["first", "second", "third"]
    assert answers(tmp_path / "**" / "*.jsonl*") == ["first", "second", "third", "fourth"]
    assert len(file_states(str(tmp_path / "*.jsonl"))) == 2


@pytest.mark.parametrize(
    "source", ["nope.jsonl", "nope.txt", "a/nope.TSV", "./nope", "../a/nope", "~/nope", "/no/nope", "a/b/nope", "x.zip"]
)
def test_what_is_meant_for_a_file_is_looked_for_on_no_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", None)
    with pytest.raises(TopicLoraError, match=rf"data.source '{source}' does not exist. Looked for it from {tmp_path}"):
        answers(source)


@pytest.mark.parametrize("name", ["imdb", "owner/name", "owner/name.v2", "hf://datasets/owner/name/a.parquet"])
def test_what_a_hub_may_have_is_asked_for_there(name):
    assert not looks_local(name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none/*.jsonl", r"data.source 'none/\*.jsonl' matches no file. Looked for them from"),
        ("*.*", r"data.source matches files of several kinds: a.csv and b.jsonl"),
        ("t*", r"t.txt: cannot read '.txt' files"),
        ("p.parquet.gz", r"p.parquet.gz: cannot read '.parquet.gz' files.*\.gz"),
        ("away.jsonl.gz", "'away.jsonl.gz' does not exist. Looked for it from"),
        ("broken.jsonl.gz", r"Cannot read data.source 'broken.jsonl.gz'.*cannot be unpacked.*Fetch or pack it again"),
        ("[bc]*.jsonl", r"Cannot read data.source '\[bc\]\*.jsonl'.*: c.jsonl: line 2: "),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("q,a\n1,x\n")
    (tmp_path / "b.jsonl").write_text(lines("x"))
    if source == "[bc]*.jsonl":
        (tmp_path / "c.jsonl").write_text(lines("x") + "{\n")
    if not source.startswith("*"):
        for name in ("t.txt", "p.parquet.gz", "broken.jsonl.gz"):
            (tmp_path / name).write_text("nothing of the kind")
    with pytest.raises(TopicLoraError, match=message):
        answers(source)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("d.jsonl", '\n{"a": 1}\n\n{"a": "x"}\n', "d.jsonl, line 4"),
        ("d.json", '[{"a": 1},\n {"a": "x"}]', "d.json, element 2"),
        ("d.csv", 'a\n"1\n"\nx\n', "d.csv, line 4"),
    ],
)
def test_a_row_that_a_template_cannot_take_is_named_by_file_and_line(tmp_path, monkeypatch, name, text, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(TopicLoraError, match=rf"^{place}: data.completion fails on a row: 'x' is no whole number"):
        answers(name, prompt="{{ a }}", completion="{{ a | int }}")
