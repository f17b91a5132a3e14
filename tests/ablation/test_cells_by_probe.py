"""Cells of a grid under probes: the same prompts, so paired by question and seed."""

import time

import numpy as np
import pytest

from topiclora_cli.ablation.by_probe import cells_by_probe
from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.reporting.grids.probes import probes
from topiclora_cli.reporting.table import Table, as_markdown
from topiclora_cli.runs.results.evaluation import EvalSummary
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.routing import BeforeAfter, Changes, Joined, Probed, ProbeStudy

EVEN = Interval(0.2, 0.1, 0.3)
NOTHING = Changes({}, {}, {})


def result(before, after, joined=None):
    answers = {"score": BeforeAfter(before, after)}
    moved = EVEN if joined is not None else None
    row = Probed("two-topics", len(before), NOTHING, moved=moved, joined=joined, by_question=answers)
    return CellResult(EvalSummary("x", None, ()), probes=ProbeStudy([row], len(before), 0))


def joined(own):
    return Joined((Interval(0.1, 0, 1), Interval(own, 0, 1)), weight=Interval(0.05, 0, 1), apart=3)


GRID = {
    "base": {0: CellResult(EvalSummary("x", None, ()))},
    "full": {0: result([1, 1, 0, 0], [1, 0, 0, 0], joined(0.3)), 1: result([1, 1, 0, 0], [1, 1, 0, 0], joined(0.5))},
    "lora": {0: result([1, 0, 0, 1], [1, 0, 0, 1]), 1: result([1, 0, 0, 1], [0, 0, 0, 0])},
}


def test_scores_under_a_probe_and_their_changes_are_held_against_the_references():
    full, lora = cells_by_probe(GRID, "lora")["two-topics"]
    assert (full.cell, full.seeds, full.asked) == ("full", 2, 4)
    score = full.measures["score"]
    assert (score.after.mean, score.change.mean) == (0.375, -0.125)
    assert (score.after_less.mean, score.change_less.mean) == (0.125, 0.125)
    assert lora.measures["score"].after_less is None
    assert full.moved == pytest.approx(0.2)
    assert full.joined.gates == (pytest.approx(0.1), pytest.approx(0.4))
    assert (lora.moved, lora.joined) == (None, None)


def test_a_cell_that_was_asked_fewer_questions_is_compared_with_nothing():
    grid = {**GRID, "short": {0: result([1, 0], [1, 1])}}
    short = cells_by_probe(grid, "lora")["two-topics"][-1]
    assert short.measures["score"].after.mean == 1
    assert short.measures["score"].after_less is None


def test_the_section_has_a_table_for_each_probe_and_one_of_the_two_topics():
    section = probes(cells_by_probe(GRID, "lora"), "lora")
    tables = [as_markdown(part) for part in section.parts if isinstance(part, Table)]
    assert "| full | 4 | 37.5 | -12.5" in tables[0]
    assert "| full | 0.100 | 0.400 | - | - | - | - | +5.0 |" in tables[1]
    assert "lora" not in tables[1]
    assert probes({}, "lora") is None


def test_a_hundred_cells_under_four_probes_are_reckoned_in_a_few_seconds():
    random = np.random.default_rng(0)
    finished = {}
    for number in range(100):
        answers = [BeforeAfter(*(random.random((2, 400)) < 0.5).astype(float).tolist()) for _ in range(4)]
        rows = [Probed(f"p{place}", 400, NOTHING, by_question={"score": each}) for place, each in enumerate(answers)]
        finished[f"x{number}"] = {0: CellResult(EvalSummary("x", None, ()), probes=ProbeStudy(rows, 400, 0))}
    start = time.process_time()
    found = cells_by_probe(finished, "x0")
    assert time.process_time() - start < 5
    assert {len(cells) for cells in found.values()} == {100}
