"""Cells by topic: sorted by one graph, paired by question and seed, with intervals where there are questions enough."""

import csv
import time

import numpy as np
import pytest
import yaml

from tests.ablation.finished_cells import NONE, result_of
from topiclora_cli.ablation.scores import compare_cells
from topiclora_cli.ablation.topics import cells_by_topic, sorting_cell
from topiclora_cli.evaluation.comparison.intervals import paired_interval
from topiclora_cli.evaluation.comparison.parts import PART_DRAWS
from topiclora_cli.recipe import build_recipe
from topiclora_cli.reporting.ablation import write_report
from topiclora_cli.reporting.grids.compose import Extent, grid_report
from topiclora_cli.runs.results.ablation import GridScores
from topiclora_cli.runs.results.evaluation import PartScores, ScoresByTopic
from topiclora_cli.runs.results.files import read_result

TASKS = ("a", "b")
LOGIC = [["logic"] if place % 3 else ["dates"] for place in range(30)]
TOPICS = {"a": LOGIC, "b": [*LOGIC[:28], ["rare"], ["rare", "logic"]]}


def parts(topics):
    names = dict.fromkeys(name for task in topics.values() for tags in task for name in tags)
    return ScoresByTopic(
        tuple(topics),
        tuple(
            PartScores(part=name, count=1, unit="share", higher_is_better=True, **{**NONE, "tuned": 0.5})
            for name in names
        ),
        (),
    )


def cell(seeds, *, start=0, rate=0.5, topics=TOPICS):
    found = {}
    for seed in range(seeds):
        random = np.random.default_rng(start + seed)
        answers = {task: (random.random(30) < rate).astype(float) for task in TASKS}
        by_topic = parts(topics) if topics else None
        found[seed] = result_of(answers, seed=seed, topics=topics, by_topic=by_topic)
    return found


def values(result, topic, topics=TOPICS):
    return [
        score
        for task in TASKS
        for score, tags in zip(result.by_question[task]["acc,none"], topics[task], strict=True)
        if topic in tags
    ]


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_topic_s_difference_is_paired_as_any_other_is(seeds):
    cells = {"full": cell(seeds), "x": cell(seeds, start=50, rate=0.7), "y": cell(seeds, start=90)}
    for name in ("x", "y"):
        found = {each.topic: each for each in cells_by_topic(cells, "full")[name]}
        assert list(found) == ["logic", "dates", "rare"]
        for topic in ("logic", "dates"):
            side = np.array(
                [np.subtract(*(values(cells[each][s], topic) for each in (name, "full"))) for s in range(seeds)]
            )
            alone = paired_interval([side], by_task=False, draws=PART_DRAWS)
            ours = found[topic]
            assert (ours.count, ours.seeds) == (side.shape[1], seeds)
            assert ours.difference == pytest.approx(alone.mean)
            assert (ours.low, ours.high) == pytest.approx((max(-1, alone.low), min(1, alone.high)))
            assert ours.mean == pytest.approx(np.mean([values(cells[name][s], topic) for s in range(seeds)]))
    assert all(each.difference is None for each in cells_by_topic(cells, "full")["full"])


def test_a_topic_of_few_questions_has_a_difference_and_no_interval():
    rare = cells_by_topic({"full": cell(2), "x": cell(2, start=9)}, "full")["x"][-1]
    assert (rare.topic, rare.count, rare.low, rare.high) == ("rare", 2, None, None)
    assert rare.difference is not None


def test_all_cells_are_sorted_by_the_reference_s_graph():
    others = {task: [["other"]] * 30 for task in TASKS}
    cells = {"x": cell(1, start=3, topics=others), "plain": cell(1, start=4, topics=None), "full": cell(1)}
    assert sorting_cell(cells, "full") == "full"
    assert sorting_cell({name: cells[name] for name in ("plain", "x")}, "full") == "x"
    assert sorting_cell({"plain": cells["plain"]}, "plain") is None
    for found in cells_by_topic(cells, "full").values():
        assert [each.topic for each in found] == ["logic", "dates", "rare"]


def test_a_cell_that_was_not_asked_these_questions_has_no_topics():
    cells = {"full": cell(1), "x": cell(1)}
    cells["x"][0].by_question["a"]["acc,none"].pop()
    assert cells_by_topic(cells, "full")["x"] == ()


def test_the_report_and_the_sheets_have_the_intervals_and_say_whose_graph_it_is(tmp_path):
    cells = {"full": cell(3), "x": cell(3, start=50, rate=0.9)}
    found = GridScores(tuple(compare_cells(cells, "full")), "full", sorted_by=sorting_cell(cells, "full"))
    asked = build_recipe({"name": "x", "model": {"name": "m"}}, where="x")
    write_report(tmp_path, found, grid_report(found, Extent(2, 6, 6), asked, [asked], ()))
    logic = found.cells[1].topics[0]
    ends = f"[{100 * logic.low:.1f}, {100 * logic.high:.1f}]"
    for name in ("report.md", "report.html"):
        page = (tmp_path / name).read_text()
        assert ends in page
        assert "the graph of full" in page
    with (tmp_path / "topics.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = [each for each in rows if (each["cell"], each["topic"]) == ("x", "logic")]
    assert (float(row["low"]), float(row["high"]), row["sorted_by"]) == (logic.low, logic.high, "full")
    assert read_result(tmp_path / "results.json", GridScores).cells[1].topics[0] == logic


def test_two_hundred_cells_by_sixty_topics_are_reckoned_in_a_few_seconds():
    random = np.random.default_rng(0)
    topics = {"a": [[f"topic {number}"] for number in random.integers(0, 60, 700)]}
    by_topic = parts(topics)
    cells = {
        ("full" if number == 0 else f"x{number}"): {
            0: result_of({"a": (random.random(700) < 0.5).astype(float)}, topics=topics, by_topic=by_topic)
        }
        for number in range(200)
    }
    start = time.process_time()
    found = cells_by_topic(cells, "full")
    assert time.process_time() - start < 4
    assert any(each.low is not None and each.low <= each.difference <= each.high for each in found["x7"])


def test_a_grid_by_topic_has_cells_without_a_graph_too(tiny_recipe, run_cli, tmp_path):
    lora = {"adapter.method": "lora", "adapter.num_experts": None, "adapter.top_k": None}
    cells = yaml.safe_dump({"base": {}, "plain": lora}, default_flow_style=True).strip()
    sets = ("eval.by_topic=true", "eval.limit=12", "train.max_steps=1", f"ablation.cells={cells}")
    options = [part for each in sets for part in ("--set", each)]
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "run", *options)
    assert code == 0, text
    found = read_result(tmp_path / "run/ablation/results.json", GridScores)
    assert found.sorted_by == "full"
    topics = {cell.name: [(each.topic, each.count) for each in cell.topics] for cell in found.cells}
    assert set(topics) == {"full", "base", "plain"}
    assert topics["base"] == topics["plain"] == topics["full"] != []
    logic = next(each for cell in found.cells if cell.name == "plain" for each in cell.topics if each.count >= 10)
    assert logic.low is not None
    assert f"{100 * logic.low:.1f}" in (tmp_path / "run/ablation/report.md").read_text()
