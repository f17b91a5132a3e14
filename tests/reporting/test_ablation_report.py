"""A grid is scored in its metric's own unit, with the way that is better, and every figure is in every format."""

import csv
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tests.ablation.finished_cells import result_of
from topiclora_cli.ablation.scores import compare_cells
from topiclora_cli.recipe import build_recipe
from topiclora_cli.reporting.ablation import warnings, write_report
from topiclora_cli.reporting.grids.compose import Extent, grid_report
from topiclora_cli.reporting.grids.effects import number_of
from topiclora_cli.reporting.terminal import ablation_table
from topiclora_cli.runs.results.ablation import CellScore, Cost, Difference, GridScores, Measure, Standing, Tried
from topiclora_cli.runs.results.cells import CellLine
from topiclora_cli.runs.results.files import read_result


def recipe(**ablation):
    return build_recipe({"name": "x", "model": {"name": "m"}, "ablation": ablation}, where="x")


def written(folder, scores, extent=None, *, reference="full", asked=None, lines=()):
    asked = asked or recipe()
    found = GridScores(tuple(scores), reference)
    extent = extent or Extent(cells=len(scores), runs=len(scores), scored=len(scores))
    write_report(folder, found, grid_report(found, extent, asked, [asked], lines))
    return (folder / "report.md").read_text()


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
    about = dict(zip(("metric", "unit", "better"), kind, strict=True))
    finished = {
        name: {seed: result_of({"t": [value]}, **about) for seed, value in enumerate(each)}
        for name, each in zip(("full", "other"), values, strict=True)
    }
    scores = compare_cells(finished, "full")
    report = written(tmp_path, scores)
    console = Console(width=120, record=True)
    console.print(ablation_table(scores))
    for text in (report, console.export_text()):
        assert heading in text
        assert all(cell in text for cell in cells)
        assert "ccuracy" not in text
    assert json.loads((tmp_path / "results.json").read_text())["cells"][0]["unit"] == kind[1]


def cell(name, against=None, **more):
    measures = {"acc": Measure("share", True, {"tasks": 0.5}, {"tasks": None}, against or {})}
    return CellScore(name, 1, "acc", "share", True, 0.5, None, None, None, None, measures=measures, **more)


def test_differences_and_values_tried_are_told_and_kept(tmp_path):
    found = {"tasks": Difference(0.02, -0.01, 0.05), "questions": Difference(0.03, 0.01, 0.04)}
    rates = [Tried({"train.learning_rate": 0.001}, 1.25), Tried({"train.learning_rate": 0.3}, None)]
    chosen = {"tuned": rates[0].values, "edges": ("train.learning_rate",), "tried": tuple(rates)}
    scores = [cell("full", {"lora": found}), cell("lora", {"full": found}, **chosen)]
    report = written(tmp_path, scores, Extent(cells=3, runs=6, scored=2), reference="lora")
    for line in (
        "Scored: 2 of 6 runs of 3 cells. What is said below may change as others finish.",
        "## Each cell minus lora",
        "| full | +2.0 [-1.0, 5.0] | +3.0 [1.0, 4.0] |",
        "## full minus each cell",
        "| lora | -2.0 [-5.0, 1.0] | -3.0 [-4.0, -1.0] |",
        "| lora | learning_rate 0.001 | 1.2500 | yes |",
        "| lora | learning_rate 0.3 | diverged |  |",
        *warnings(scores),
    ):
        assert line in report.splitlines()
    assert read_result(tmp_path / "results.json", GridScores) == GridScores(tuple(scores), "lora")


def beside_full(mean, p, p_holm):
    difference = Difference(mean, mean - 0.01, mean + 0.01, 1, p, "permutation", p_holm, 3)
    return {"full": {"tasks": difference, "questions": difference}}


def test_what_is_clear_after_holm_has_stars_and_the_best_is_strong(tmp_path):
    better = replace(cell("k_1", beside_full(0.1, 0.0001, 0.0003)), mean=0.6, deviation=0.012)
    scores = [cell("full"), cell("near", beside_full(0.0, 0.4, 0.8)), better]
    report = written(tmp_path, scores)
    assert "| k_1 | +10.0 [9.0, 11.0] | +10.0 [9.0, 11.0] | \\<0.001 | \\<0.001*** |" in report
    assert "| near | +0.0 [-1.0, 1.0] | +0.0 [-1.0, 1.0] | 0.400 | 0.800 |" in report
    assert "adjusted by Holm over the 3 cells of the grid beside the reference" in report
    assert "One seed has an interval over questions alone" in report
    latex = (tmp_path / "tables.tex").read_text()
    assert r"k\_1 & \textbf{60.0 $\pm$ 1.2***} & +10.0 [9.0, 11.0] & <0.001" in latex.replace("$<$", "<")
    assert r"\toprule" in latex


def test_every_row_of_the_sheets_names_its_run(tmp_path):
    finished = {
        name: {
            seed: result_of({"a": [1, 0], "b": [0, 1, 1]}, seed=seed, cost=Cost(parameters=7, train_seconds=3.5))
            for seed in (0, 1)
        }
        for name in ("full", "x")
    }
    written(tmp_path, compare_cells(finished, "full"))
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert r"\caption{1 cell beside full}" in (tmp_path / "tables.tex").read_text()
    assert len(rows) == 8
    assert {(row["cell"], row["seed"], row["task"], row["run"], row["n"]) for row in rows} >= {
        ("x", "1", "a", "x-s1", "2"),
        ("x", "1", "b", "x-s1", "3"),
    }
    assert {row["train_seconds"] for row in rows} == {"3.5"}
    cells = {row["cell"]: row for row in csv.DictReader((tmp_path / "cells.csv").open())}
    assert cells["x"]["runs"] == "x-s0 x-s1"
    assert (cells["x"]["wins"], cells["x"]["ties"], cells["x"]["win_rate"], cells["x"]["rank"]) == (
        "0",
        "4",
        "0.5",
        "1.5",
    )
    assert float(cells["x"]["p_holm"]) == 1.0
    assert cells["full"]["difference"] == ""


def test_costs_stand_beside_the_score_with_the_front_marked_and_drawn(tmp_path):
    small = cell("small", cost=Cost(parameters=10, train_seconds=200.0), fronts=("parameters",))
    large = cell("large", cost=Cost(parameters=4000, train_seconds=50.0), fronts=("train_seconds",))
    report = written(tmp_path, [small, large])
    assert "| small | 50.0 | **10** | 3 min |" in report
    assert "| large | 50.0 | 4,000 | **50 s** |" in report
    page = (tmp_path / "report.html").read_text()
    assert page.count('<figure class="plot">') == 2
    assert "trainable parameters, logarithmic" in page


def test_cells_of_one_factor_are_drawn_over_its_values_and_the_recipe_stands_among_them(tmp_path):
    names = ["kl.weight=0.5", "kl.weight=0.02", "lora-data=1_16", "lora-data=1", "router=linear"]
    asked = recipe(cells={name: {"loss.kl.weight": float(name[10:])} for name in names[:2]})
    report = written(tmp_path, [cell("full"), *(cell(name) for name in names)], asked=asked)
    section = report.split("## Effect of kl.weight")[1].split("##")[0]
    own = asked.loss.kl.weight
    assert re.findall(r"^\| ([\d.]+) \| (\S+)", section, re.M) == [
        ("0.02", "kl.weight=0.02"),
        (f"{own:g}", "full"),
        ("0.5", "kl.weight=0.5"),
    ]
    assert "| 0.0625 | lora-data=1_16 |" in report
    assert "Effect of router" not in report


@pytest.mark.parametrize(
    ("text", "value"), [("0.05", 0.05), ("2e-4", 2e-4), ("1%", 0.01), ("1_16", 0.0625), ("linear", None), ("1_0", None)]
)
def test_values_in_names_of_cells_count_to_numbers(text, value):
    assert number_of(text) == value


def test_what_failed_what_is_odd_and_what_is_asked_are_told(tmp_path):
    lines = [
        CellLine("x", 1, "x-s1", "failed", "out of memory", 20.0, "train", 2),
        CellLine("y", 0, "y-s0", "running", seconds=3.0),
    ]
    asked = recipe(cells={"z": {}}, about={"z": "Does it matter?"})
    odd = cell("z", odd="it was asked other tasks")
    report = written(tmp_path, [cell("full"), odd], asked=asked, lines=lines)
    assert "| x-s1 | failed | train | 2 | out of memory |" in report
    assert "y-s0" not in report
    assert "z is compared with nothing: it was asked other tasks." in report
    assert "| z | Does it matter? |" in report


def test_ranks_and_wins_are_told(tmp_path):
    full = cell("full", standing=Standing(rank=1.25, blocks=4, among=2))
    other = cell("x", standing=Standing(1, 2, 1, 1.75, 4, 2))
    report = written(tmp_path, [other, full])
    assert "| full | **1.25** | - | - | - | - |\n| x | 1.75 | 50.0 | 1 | 2 | 1 |" in report
    assert "the 4 pairs of task and seed that all 2 cells have" in report


def test_a_reference_that_is_not_scored_yet_is_told(tmp_path):
    report = written(tmp_path, [cell("full"), cell("x")], reference="lora")
    assert "lora, the reference, is not scored yet, and nothing is compared with it." in report
    assert "not scored yet" not in written(tmp_path, [cell("full"), cell("x")])


def test_the_page_stands_alone(tmp_path):
    found = {"tasks": Difference(0.02, -0.01, 0.05), "questions": Difference(0.03, 0.01, 0.04)}
    written(tmp_path, [cell("full"), cell("<b>", {"full": found})])
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert "<b>" not in page.replace("&lt;b&gt;", "")
    assert 'class="intervals"' in page
