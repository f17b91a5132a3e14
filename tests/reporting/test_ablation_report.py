"""A grid is scored in its metric's own unit, with the way that is better."""

import json

import pytest
from rich.console import Console

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.scores import score_cell
from topiclora_cli.recipe import build_recipe
from topiclora_cli.reporting.ablation import Extent, warnings, write_report
from topiclora_cli.reporting.terminal import ablation_table
from topiclora_cli.runs.results.ablation import CellScore, GridScores, Interval, Measure, Tried
from topiclora_cli.runs.results.evaluation import EvalSummary, MeanScores, TaskScores
from topiclora_cli.runs.results.files import read_result

RECIPE = build_recipe({"name": "x", "model": {"name": "m"}}, where="x")


def outcome(value, metric, unit, better):
    figures = {**dict.fromkeys(("base", "base_stderr", "tuned_stderr", "delta", "delta_stderr")), "tuned": value}
    figures |= {"unit": unit, "higher_is_better": better}
    about = {"group": False, "depth": 0, "counted": True, "filter": "none", "count": 1, "metrics": {}}
    task = TaskScores(task="t", metric=metric, **about, **figures)
    return CellResult(EvalSummary("e", MeanScores(of=("t",), **figures), (task,)))


@pytest.mark.parametrize(
    ("values", "kind", "heading", "cells"),
    [
        (
            [[20.0, 22.0], [25.0, 26.0]],
            ("word_perplexity", "per word", False),
            "word_perplexity ↓",
            ["21.000", "+4.500"],
        ),
        ([[0.20, 0.22], [0.25, 0.26]], ("acc_norm", "share", True), "acc_norm, % ↑", ["21.0", "+4.5"]),
    ],
)
def test_scores_have_a_unit_and_a_direction(values, kind, heading, cells, tmp_path):
    full, other = ({seed: outcome(value, *kind) for seed, value in enumerate(each)} for each in values)
    finished = {"full": full, "other": other}
    scores = [score_cell(name, by_seed, finished) for name, by_seed in finished.items()]
    write_report(tmp_path, scores, Extent(cells=2, runs=4, scored=4), [RECIPE], reference="full")
    console = Console(width=120, record=True)
    console.print(ablation_table(scores))
    for text in ((tmp_path / "report.md").read_text(), console.export_text()):
        assert heading in text
        assert all(cell in text for cell in cells)
        assert "ccuracy" not in text
    assert json.loads((tmp_path / "results.json").read_text())["cells"][0]["unit"] == kind[1]


def cell(name, against=None, **more):
    measures = {"acc": Measure("share", True, {"tasks": 0.5}, {"tasks": None}, against or {})}
    return CellScore(name, 1, "acc", "share", True, 0.5, None, None, None, None, measures=measures, **more)


def test_differences_and_values_tried_are_told_and_kept(tmp_path):
    found = {"tasks": Interval(0.02, -0.01, 0.05), "questions": Interval(0.03, 0.01, 0.04)}
    rates = [Tried({"train.learning_rate": 0.001}, 1.25), Tried({"train.learning_rate": 0.3}, None)]
    chosen = {"tuned": rates[0].values, "edges": ("train.learning_rate",), "tried": tuple(rates)}
    scores = [cell("full", {"lora": found}), cell("lora", {"full": found}, **chosen)]
    write_report(tmp_path, scores, Extent(cells=3, runs=6, scored=2), [RECIPE], reference="lora")
    report = (tmp_path / "report.md").read_text()
    for line in (
        "Scored: 2 of 6 runs of 3 cells.",
        "## Each cell minus lora",
        "| full | +2.0 [-1.0, 5.0] | +3.0 [1.0, 4.0] |",
        "## full minus each cell",
        "| lora | -2.0 [-5.0, 1.0] | -3.0 [-4.0, -1.0] |",
        "| lora | learning_rate 0.001 | 1.2500 | yes |",
        "| lora | learning_rate 0.3 | diverged |  |",
        *warnings(scores),
    ):
        assert line in report.splitlines()
    assert read_result(tmp_path / "results.json", GridScores) == GridScores(tuple(scores))
