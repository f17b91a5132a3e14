"""Folders of lm-eval's are paired question by question, and refused where they are not the same."""

import json

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.comparison.compare import compare

DATE = "2026-01-02T03-04-05.678901"


def folder(path, right, *, start=0, prompt="p"):
    path.mkdir()
    rows = [
        {"doc_hash": f"q{start + i}", "prompt_hash": f"{prompt}{start + i}", "target_hash": "t", "filter": "none"}
        | {"metrics": ["acc"], "acc": float(each)}
        for i, each in enumerate(right)
    ]
    (path / f"samples_sums_{DATE}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    facts = {"versions": {"sums": 1}, "n-shot": {"sums": 0}, "higher_is_better": {"sums": {"acc": True}}}
    (path / f"results_{DATE}.json").write_text(json.dumps(facts))
    return str(path)


def test_the_smaller_set_is_paired_and_what_is_left_out_is_said(tmp_path):
    one = folder(tmp_path / "one", [0, 0, 1, 1])
    (found,) = compare([one, folder(tmp_path / "two", [1, 1, 1, 1, 0, 0])])
    (row,) = found.rows
    assert (row.baseline, row.score, row.difference.mean, row.count) == (0.5, 1.0, 0.5, 4)
    assert (row.p, row.test) == (0.5, "McNemar")
    assert found.notes == ["sums: 2 questions that not all asked are left out."]


def test_other_questions_or_prompts_are_refused(tmp_path):
    one = folder(tmp_path / "one", [0, 0, 1])
    with pytest.raises(TopicLoraError, match="1 questions are only in one, 1 only in two"):
        compare([one, folder(tmp_path / "two", [0, 0, 1], start=1)])
    with pytest.raises(TopicLoraError, match="differ in the prompt of 3 questions"):
        compare([one, folder(tmp_path / "three", [0, 0, 1], prompt="other")])
