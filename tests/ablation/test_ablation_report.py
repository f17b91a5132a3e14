"""A grid is scored in its metric's own unit, with the way that is better."""

import json

import pytest
from rich.console import Console

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.report import write_report
from topiclora_cli.ablation.scores import score_cell
from topiclora_cli.ablation.work import Work
from topiclora_cli.cli.tables import ablation_table
from topiclora_cli.recipe import build_recipe


def outcome(value, metric, unit, better):
    mean = {"of": ["t"], "tuned": value, "unit": unit, "higher_is_better": better}
    return {"mean": mean, "tasks": [{"task": "t", "metric": metric}], "routing": None}


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
    recipe = build_recipe({"name": "x", "model": {"name": "m"}}, where="x")
    write_report(Work(make_grid(recipe), tmp_path), scores, recipe)
    console = Console(width=120, record=True)
    console.print(ablation_table(scores))
    for text in ((tmp_path / "report.md").read_text(), console.export_text()):
        assert heading in text
        assert all(cell in text for cell in cells)
        assert "ccuracy" not in text
    assert json.loads((tmp_path / "results.json").read_text())["cells"][0]["unit"] == kind[1]
