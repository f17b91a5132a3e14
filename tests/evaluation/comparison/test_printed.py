"""`topiclora compare` prints and writes the same rows in every format."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from topiclora_cli.evaluation.comparison.compare import compare
from topiclora_cli.reporting.comparison import comparison_table
from topiclora_cli.reporting.drawn import as_rich


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
    assert "| sums | 4 | 50.0 | 75.0 | +25.0 |" in Path("a.md").read_text()
    assert Path("a.md").read_text().startswith("**b minus a, 95 % intervals: acc, % ↑**")
    assert "| sums | Two and two? | four | ✓ four | four |" in Path("a.md").read_text()
    assert r"sums & 4 & 50.0 & 75.0 & +25.0 &" in Path("a.tex").read_text()


def test_names_and_intervals_are_whole_in_eighty_columns(lm_eval_folder):
    half = {"acc": [1.0, 0.0] * 600}
    tasks = {"topiclora_movie_recommendations": half, "topiclora_unit_conversion": half}
    others = {name: {"acc": half["acc"][::-1]} for name in tasks}
    (compared,) = compare([lm_eval_folder("a", tasks), lm_eval_folder("b", others)])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_rich(comparison_table(compared)))
    title, _, *lines = console.export_text().splitlines()
    assert title.rstrip() == "b minus a, 95 % intervals: acc, % ↑; tasks of topiclora_*"
    assert [re.split(r"\s{2,}|\s(?=\d)", line.strip())[0] for line in lines] == [
        "movie_recommendations",
        "unit_conversion",
        "mean of tasks",
    ]
    assert all(re.search(r"\[\S+, \S+\]", line) for line in lines)


@pytest.mark.parametrize(
    ("metrics", "title", "names"),
    [
        (("acc", "exact_match"), ": shares, % ↑", ["arc (acc)", "arc_easy (exact_match)", "mean of tasks"]),
        (("acc", "choice_loss"), "", ["arc (acc, % ↑)", "arc_easy (choice_loss ↓)"]),
    ],
)
def test_tasks_of_several_metrics_say_theirs_and_keep_their_names(lm_eval_folder, metrics, title, names):
    tasks = {
        name: {metric: [3.0 if metric == "choice_loss" else 1.0, 0.0]}
        for name, metric in zip(("arc", "arc_easy"), metrics, strict=True)
    }
    (compared,) = compare([lm_eval_folder("a", tasks), lm_eval_folder("b", tasks)])
    table = comparison_table(compared)
    assert table.title == f"b minus a, 95 % intervals{title}"
    assert [cells[0].text for cells in table.rows] == names


def test_where_no_question_flipped_a_line_says_so(lm_eval_folder, run_cli):
    folders = [lm_eval_folder(name, {"sums": {"acc": [0.0, 1.0]}}) for name in ("a", "b")]
    code, printed = run_cli("compare", *folders, "--show-flips", "2")
    assert code == 0
    assert "No question flipped." in printed
    assert "alone answered rightly" not in printed


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
