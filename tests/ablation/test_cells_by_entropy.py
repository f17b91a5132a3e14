"""A grid's scores by entropy: one graph's bins for every cell, and differences paired by question and seed."""

import time
from dataclasses import replace

import numpy as np
import pytest

from topiclora_cli.ablation.by_entropy import cells_by_entropy
from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.runs.results.evaluation import EvalSummary, MeanScores, TaskScores

ENTROPY = {"a": [0.1, 0.2, 0.9, 1.4], "b": [0.0, 0.3, 1.0, 1.2]}
SURE = {"a": [1.0, 1, 0, 0], "b": [1.0, 1, 0, 0]}
NONE = {"unit": "share", "higher_is_better": True} | dict.fromkeys(
    ("base", "base_stderr", "tuned_stderr", "delta", "delta_stderr")
)


def result(scores, entropy=None):
    tasks = tuple(
        TaskScores(
            task=task, group=False, depth=0, counted=True, metric="acc", filter="none", count=len(each), metrics={},
            tuned=float(np.mean(each)), **NONE,
        )
        for task, each in scores.items()
    )  # fmt: skip
    mean = MeanScores(of=tuple(scores), tuned=float(np.mean(list(scores.values()))), **NONE)
    by_question = {task: {"acc,none": each} for task, each in scores.items()}
    return CellResult(EvalSummary("x", mean, tasks), by_question, entropy=entropy)


def test_a_cell_without_a_graph_is_sorted_by_that_of_full():
    even = {"a": [1.0, 0, 1, 0], "b": [1.0, 0, 1, 0]}
    finished = {"full": {0: result(SURE, ENTROPY)}, "lora": {0: result(even)}}
    found = cells_by_entropy(finished, "lora")
    assert (found.graph, found.tasks, found.counts) == ("full", ("a", "b"), (2, 2, 2, 2))
    assert [each.mean for each in found.profiles["full"].bins] == [1, 1, 0, 0]
    assert [each.mean for each in found.profiles["lora"].bins] == [1, 0, 1, 0]
    assert [each.mean for each in found.differences["full - lora"].bins] == [0, 1, -1, 0]
    assert found.profiles["full"].slope.mean < found.profiles["lora"].slope.mean


def test_seeds_of_one_graph_are_averaged_and_differences_paired_by_seed():
    other = {task: [value + 0.2 for value in each] for task, each in ENTROPY.items()}
    finished = {
        "full": {0: result(SURE, ENTROPY), 1: result(SURE, other)},
        "kl_off": {1: result(SURE, ENTROPY), 2: result(SURE, ENTROPY)},
        "base": {0: result(SURE)},
    }
    found = cells_by_entropy(finished, "full")
    assert found.edges[0] == pytest.approx(0.1)
    assert set(found.differences) == {"kl_off - full", "base - full"}
    assert found.differences["base - full"].slope.mean == pytest.approx(0)


def test_cells_that_were_asked_something_else_are_left_out():
    short = {"a": [1.0, 1], "b": [1.0, 0]}
    found = cells_by_entropy({"full": {0: result(SURE, ENTROPY)}, "short": {0: result(short)}}, "full")
    assert set(found.profiles) == {"full"}
    assert found.differences == {}


def test_without_entropies_there_is_nothing_to_sort_by():
    assert cells_by_entropy({"full": {0: result(SURE)}}, "full") is None
    plain = result(SURE, ENTROPY)
    task = replace(plain.scores.tasks[0], unit="")
    unshared = replace(plain, scores=replace(plain.scores, tasks=(task,), mean=replace(plain.scores.mean, of=("a",))))
    assert cells_by_entropy({"full": {0: unshared}}, "full") is None


def test_two_hundred_cells_of_two_thousand_questions_are_reckoned_in_a_few_seconds():
    random = np.random.default_rng(0)
    entropy = {task: random.uniform(0, 2, 500).tolist() for task in "abcd"}
    finished = {
        ("full" if number == 0 else f"x{number}"): {
            seed: result({task: (random.random(500) < 0.5).astype(float) for task in entropy}, entropy)
            for seed in range(2)
        }
        for number in range(200)
    }
    start = time.process_time()
    found = cells_by_entropy(finished, "full")
    assert time.process_time() - start < 8
    assert (len(found.profiles), len(found.differences)) == (200, 199)
