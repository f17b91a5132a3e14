"""What stands in a file is what is trained on: nothing guessed, nothing rounded, what is missing counted."""

import gzip
import json
from dataclasses import asdict

import datasets
import pyarrow.parquet
import pytest
from pyarrow import Table

from topiclora_cli.data import load_data
from topiclora_cli.data.source_report import source_reports
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.reporting.data import show

TEMPLATES = {"prompt": "{{ q }}?", "completion": "{{ a }}"}


def read(path, **keys):
    return load_data(DataSection(source=str(path), **{**TEMPLATES, **keys}), seed=0)


def answers(path, **keys):
    return [row.completion.removeprefix(" ") for row in read(path, **keys).train]


def csv_file(folder, *cells, name="d.csv"):
    path = folder / name
    path.write_text("q,a\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(cells)))
    return path


def jsonl_file(folder, *values, name="d.jsonl"):
    path = folder / name
    path.write_text("".join(f'{{"q": "{number}", "a": {value}}}\n' for number, value in enumerate(values)))
    return path


COLUMNS = {
    "words for nothing": ["NA", "null", "None", "nan", "N/A", "-"],
    "leading zeros": ["01234", "00501"],
    "truth": ["true", "false"],
    "whole and broken": ["2", "0.5", "1.50", "1e5"],
    "huge": ["12345678901234567890123", "7"],
    "dates": ["2024-05-01", "2024-05-02"],
    "spaces": [" yes", "no ", "  "],
}


@pytest.mark.parametrize("cells", COLUMNS.values(), ids=list(COLUMNS))
def test_cells_of_a_csv_file_are_text(tmp_path, cells):
    expected = [cell for cell in cells if cell.strip()]
    assert answers(csv_file(tmp_path, *cells)) == [cell.removeprefix(" ") for cell in expected]


@pytest.mark.parametrize(
    "values",
    [
        ["2", "0.5", "1.50", "1e5", "12345678901234567890123", "-0.0", "1E400"],
        ["true", "false", '"true"'],
        ['"yes"', "2", "[1, 2]", '["a", null]', '{"b": 1}'],
        ['"2024-05-01"', '"2024-05-02"'],
        ['"01"', '"NA"', '"None"'],
    ],
)
def test_values_of_json_are_what_it_says(tmp_path, values):
    expected = [value.strip('"') for value in values]
    assert answers(jsonl_file(tmp_path, *values)) == expected
    (tmp_path / "d.json").write_text(json.dumps([{"q": "1", "a": "x"}])[:-1] + f', {{"q": "2", "a": {values[0]}}}]')
    assert answers(tmp_path / "d.json") == ["x", expected[0]]


MISSING = {
    "csv": ("q,a,b\n1?,yes,x\n2?,,x\n,no,x\n4?\n", {"a": 2, "q": 1}),
    "jsonl": (
        '{"q": "1?", "a": "yes"}\n{"q": "2?", "a": null}\n{"q": "3?"}\n{"q": null, "a": "x"}\n{"q": "5", "a": NaN}\n',
        {"a": 3, "q": 1},
    ),
}


@pytest.mark.parametrize("kind", MISSING)
def test_what_is_missing_is_left_out_and_counted(tmp_path, kind):
    text, wanting = MISSING[kind]
    path = tmp_path / f"d.{kind}"
    path.write_text(text)
    data = read(path)
    assert [row.completion for row in data.train] == [" yes"]
    assert (data.counts[0].missing, dict(data.counts[0].wanting)) == (sum(wanting.values()), wanting)
    # A filter that looks for it drops it; one that needs it cannot be asked.
    assert read(path, filter="a != '' and q != ''").counts[0].filtered == sum(wanting.values())
    kept = read(path, filter="a < 'z'")
    assert (len(kept.train), kept.counts[0].wanting["a"]) == (1, wanting["a"])
    assert len(read(path, completion="{{ a | default('none given') }}").train) == 1 + wanting["a"]


def test_parquet_keeps_its_types_and_its_gaps(tmp_path):
    table = Table.from_pylist([{"q": "1", "a": 3}, {"q": "2", "a": None}, {"q": None, "a": 4}])
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    data = read(tmp_path / "d.parquet", completion="{{ a + 1 }}")
    assert [row.completion for row in data.train] == [" 4"]
    assert dict(data.counts[0].wanting) == {"a": 1, "q": 1}


def test_the_ready_definitions_leave_out_what_has_no_answer(tmp_path):
    rows = [
        {"instruction": "Add", "input": None, "output": "3"},
        {"instruction": "Add", "input": "1 2", "output": None},
    ]
    (tmp_path / "d.json").write_text(json.dumps([*rows, {"instruction": "Say", "output": "so"}]))
    data = load_data(DataSection(name="alpaca", source=str(tmp_path / "d.json")), seed=0)
    assert [row.completion for row in data.train] == [" 3", " so"]
    assert not any("None" in row.prompt or "Input" in row.prompt for row in data.train)
    assert dict(data.counts[0].wanting) == {"output": 1}


def test_the_table_says_how_many_were_left_out_and_why(tmp_path):
    said = []

    class Display:
        def table(self, title, columns, rows):
            said.append(dict(zip(columns, rows[0], strict=True)))

        def say(self, text):
            said.append(text)

    data = read(csv_file(tmp_path, "yes", "", "no", ""))
    reports = source_reports(data, [], max_length=9)
    show(reports, Display())
    assert said[0]["missing"] == "2"
    assert said[1].endswith("d.csv: left out for want of a value: a 2.")
    assert json.loads(json.dumps(asdict(reports[0])))["wanting"] == {"a": 2}


def test_a_number_beside_text_is_no_silent_no(tmp_path):
    path = csv_file(tmp_path, "1", "2", "3")
    assert answers(path, filter="a | int > 1") == ["2", "3"]
    for text in ("a != 1", "a == 1", "a in [1, 2]", "a > 1"):
        with pytest.raises(TopicLoraError, match=r"data.filter fails on a row: .*(\| int|not supported)"):
            read(path, filter=text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q,a\nCafé,naïve\n".encode("latin-1"), "is not UTF-8: byte 0xe9.*iconv -f latin1 -t utf-8 d.csv > new.csv"),
        ("q,a\n1,2\n".encode("utf-16"), "is not UTF-8: byte 0xff.*iconv -f utf-16 -t utf-8"),
        (b"q,a,a\n1,2,3\n", "two columns called 'a'"),
        (b"q,a\n1,2,3\n", "line 2 has 3 cells, the header 2.*double quotes"),
        (b'q,a\n1,"never closed\n2,x\n', "line 3: unexpected end of data"),
        (b"q\n1\n", "data.completion uses a missing column: 'a'.*Columns: q"),
        (b"q,a-b\n1,2\n", r"missing column: 'a'.*Columns: q, a-b\. A template says row\[\"a-b\"\]"),
    ],
)
def test_csv_files_that_are_not_what_they_seem(tmp_path, content, message):
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(TopicLoraError, match=message):
        read(tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"q": "1", "a": "x"}\n{"q": \n', "line 2: Expecting value"),
        (b'{"q": "1", "a": "x"}\n[1]\n', "line 2 is no object"),
        (b'{"q": "1", "a": "x", "a": "y"}\n', "line 1: an object has the key 'a' twice"),
        (b'{"q": "\xe9", "a": "x"}\n', "is not UTF-8: byte 0xe9"),
        (b'{"q": "\\ud83d", "a": "x"}\n', "line 1: .*surrogates"),
        (b"\n\n", "has no examples"),
    ],
)
def test_json_files_that_are_not_what_they_seem(tmp_path, content, message):
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(TopicLoraError, match=message):
        read(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    "content",
    [
        b"q;a\n1;yes, sir\n",
        b"q\ta\n1\tyes, sir\n",
        b"\xef\xbb\xbfq,a\r\n\r\n1,\"yes, sir\"\r\n",
        b"q, a,,\n1,\"yes, sir\",,\n",
    ],
)  # fmt: skip
def test_csv_files_of_other_habits(tmp_path, content):
    (tmp_path / "d.csv").write_bytes(content)
    assert [(row.prompt, row.completion) for row in read(tmp_path / "d.csv").train] == [("1?", " yes, sir")]


def test_a_bracket_in_a_name_is_no_pattern(tmp_path):
    jsonl_file(tmp_path, '"other"', name="part1.jsonl")
    assert answers(jsonl_file(tmp_path, '"own"', name="part[1].jsonl")) == ["own"]
    csv_file(tmp_path, "other", name="part1.csv")
    assert answers(csv_file(tmp_path, "own", name="part[1].csv")) == ["own"]
    for name, answer in (("part1", "other"), ("part[1]", "own")):
        pyarrow.parquet.write_table(Table.from_pylist([{"q": "1", "a": answer}]), tmp_path / f"{name}.parquet")
    assert answers(tmp_path / "part[1].parquet") == ["own"]


def test_a_long_file_whose_column_starts_with_nulls(tmp_path):
    path = tmp_path / "d.jsonl"
    with path.open("w") as file:
        for number in range(11):
            file.write(json.dumps({"q": "x" * 1_000_000, "a": None, "n": number}) + "\n")
        file.write(json.dumps({"q": "1", "a": {"text": "yes"}}) + "\n")
    data = read(path, completion="{{ a.text }}")
    assert [row.completion for row in data.train] == [" yes"]
    assert data.counts[0].missing == 11


def test_a_folder_is_read_as_its_files_are(tmp_path):
    (tmp_path / "train-1.jsonl").write_text('{"q": "1", "a": "01"}\n')
    (tmp_path / "train-2.jsonl").write_text('{"q": "2", "a": 2, "more": true}\n{"q": "3", "more": 1}\n')
    data = read(tmp_path, prompt="{{ q }}{{ ' more' if more }}?")
    assert [(row.prompt, row.completion) for row in data.train] == [("1?", " 01"), ("2 more?", " 2")]
    assert dict(data.counts[0].wanting) == {"a": 1}


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.jsonl.gz"])
def test_files_of_a_folder_may_be_packed_or_parted_by_tabs(tmp_path, name):
    text = "q\ta\n1\tNA\n" if "tsv" in name else "q,a\n1,NA\n" if "csv" in name else '{"q": "1", "a": "NA"}\n'
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt") as file:
        file.write(text)
    assert answers(tmp_path) == ["NA"]


def test_what_datasets_saved_to_disk(tmp_path):
    table = datasets.Dataset.from_list([{"q": "1", "a": 3}, {"q": "2", "a": None}])
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "two")
    for folder in ("one", "two"):
        assert answers(tmp_path / folder) == ["3"]
    with pytest.raises(TopicLoraError, match="no split 'dev', but 'train', 'test'"):
        read(tmp_path / "two", split="dev")
