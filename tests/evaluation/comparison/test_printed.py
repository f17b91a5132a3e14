"""`topiclora compare` prints and writes the same rows in every format."""

import csv
import json
from pathlib import Path

import pytest


@pytest.fixture
def two(lm_eval_folder):
    """Two folders on which one question flipped."""
    asked = {"gen_args_0": {"arg_0": "Two and two?", "arg_1": {"until": []}}}
    said = {"arguments": asked, "filtered_resps": ["four"], "target": "four"}
    tasks = {"sums": {"acc": [0.0, 1.0, 1.0, 0.0]}, "few": {"acc": [1.0]}}
    better = {"sums": {"acc": [1.0, 1.0, 1.0, 0.0]}, "few": {"acc": [1.0]}}
    return [lm_eval_folder(name, each, samples=lambda i: said) for name, each in (("a", tasks), ("b", better))]


def test_every_format_has_the_rows(two, run_cli):
    files = ("--csv", "new/a.csv", "--latex", "a.tex", "--markdown", "a.md")
    code, printed = run_cli("compare", *two, *files, "--show-flips", "2")
    assert code == 0
    for expected in ("b minus a", "+25.0", "mean of tasks", "1 of 1 questions that b or a alone", "Two and two?"):
        assert expected in printed
    with Path("new/a.csv").open() as lines:
        rows = {row["task"]: row for row in csv.DictReader(lines)}
    assert list(rows) == ["few", "sums", "mean of tasks"]
    assert {key: rows["sums"][key] for key in ("run", "against", "metric", "filter", "n", "test")} == {
        **{"run": "b", "against": "a", "metric": "acc", "filter": "none", "n": "4", "test": "McNemar"}
    }
    assert [float(rows["sums"][key]) for key in ("baseline", "score", "difference", "p")] == [0.5, 0.75, 0.25, 1.0]
    assert float(rows["sums"]["low"]) < 0.25 < float(rows["sums"]["high"])
    assert rows["mean of tasks"]["p_holm"] == ""
    assert "| sums | acc, % ↑ | 4 | 50.0 | 75.0 | +25.0 |" in Path("a.md").read_text()
    assert "| Two and two? |" in Path("a.md").read_text()
    assert r"sums & acc, \% $\uparrow$ & 4 & 50.0 & 75.0 & +25.0 &" in Path("a.tex").read_text()


def test_json_has_plain_numbers_and_nothing_else_is_printed(two, run_cli):
    code, printed = run_cli("compare", *two, "--json", "--show-flips", "1")
    (found,) = json.loads(printed)
    assert code == 0
    assert (found["side"], found["baseline"], found["flipped"]) == ("b", "a", 1)
    assert [row["difference"]["mean"] for row in found["rows"]] == [0.0, 0.25, 0.125]
    assert [row["p_holm"] for row in found["rows"]] == [1.0, 1.0, None]
    assert found["flips"] == [
        {"task": "sums", "question": "Two and two?", "right": "four", "baseline": "four", "answer": "four", "won": True}
    ]


def test_a_refusal_is_one_line_and_writes_nothing(two, run_cli):
    code, printed = run_cli("compare", *two, "--metric", "bleu", "--csv", "a.csv")
    assert code == 2
    assert printed.startswith("error: few has no metric 'bleu'")
    assert not Path("a.csv").exists()
