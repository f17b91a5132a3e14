"""The table of what was read agrees with what was done."""

import json
import statistics

import pytest
from transformers import AutoTokenizer

from topiclora_cli.data import load_data
from topiclora_cli.data.encode import encode_every, fitting
from topiclora_cli.data.source_report import source_reports
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.reporting.data import show
from topiclora_cli.reporting.sources import sources_table
from topiclora_cli.runs.results.training import SourceReport


class Table:
    """A display that keeps the table it is given."""

    def table(self, title, columns, rows):
        self.title, self.columns, self.rows = title, columns, rows

    def say(self, text):
        pass


def test_numbers_add_up_from_rows_to_examples(tiny_model_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    records = [{"q": "Sort " * (1 + i % 10) + str(i // 20), "n": i} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    file = {"source": str(tmp_path / "a.jsonl"), "prompt": "{{ q }}", "completion": "{{ 'yes' if n != 3 }}"}
    other = {"source": "quickstart", "per_family": 2, "weight": 1}
    sources = [{**file, "filter": "n > 1", "weight": 3}, other]
    data = load_data(DataSection(sources=sources, dedup="exact", validation=0.1), seed=0)
    every = encode_every(data.train, tokenizer)
    encoded = fitting(every, 9)
    reports = source_reports(data, every, max_length=9)
    report = reports[0]
    assert (report.read, report.filtered, report.empty, report.duplicates) == (40, 2, 1, 17)
    assert report.held_out == sum(row.source == 0 for row in data.validation)
    mixed = [row for row in data.train if row.source == 0]
    assert 0 < report.too_long < len(mixed)
    assert report.used + report.too_long == len(mixed)
    lengths = [len(example.input_ids) for example in encoded if example.row.source == 0]
    assert report.mean_tokens == pytest.approx(sum(lengths) / len(lengths), abs=0.06)
    display = Table()
    show(reports, display)
    shown = dict(zip(display.columns, display.rows[0], strict=True))
    assert (report.tagged, reports[1].tagged) == (0, len(encoded) - report.used)
    assert (shown["read"], shown["too long"], shown["weight %"]) == ("40", str(report.too_long), "75.0")
    every_length = sorted(len(example.input_ids) for example in every if example.row.source == 0)
    assert report.lengths.longest == every_length[-1] > 9
    assert report.lengths.median == statistics.median(every_length)
    assert sum(length <= report.lengths.percentile_95 for length in every_length) >= 0.95 * len(every_length)
    assert shown["tokens: median / 95 % / longest"].endswith(f" / {every_length[-1]}")


def test_repetitions_that_are_trained_on_are_told_and_draws_are_none(tiny_model_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    (tmp_path / "a.jsonl").write_text('{"question": "Sort", "answer": "yes"}\n' * 3)
    sources = [{"source": str(tmp_path / "a.jsonl"), "weight": 1}, {"source": "quickstart", "weight": 1}]
    data = load_data(DataSection(sources=sources, stopping_strategy="all_exhausted"), seed=0)
    reports = source_reports(data, encode_every(data.train, tokenizer), max_length=100)
    assert [report.repeated for report in reports] == [2, 0]
    assert reports[0].used > 3
    assert reports[0].format == "completion (question, answer)"


def test_of_an_earlier_version_the_mean_length_is_told():
    (cells,) = sources_table([SourceReport("s", read=9, too_long=1, used=8, tagged=0, mean_tokens=5.0)]).rows
    assert [cell.text for cell in cells] == ["s", "9", "1", "8", "mean 5"]
