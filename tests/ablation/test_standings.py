"""Wins, ranks and Pareto fronts, by hand."""

import pytest

from tests.ablation.finished_cells import result_of
from topiclora_cli.ablation.standings import fronts, mean_cost, standings
from topiclora_cli.runs.results.ablation import Cost, Standing


def cells(**by_name):
    """Cells of scores by seed and task, each a task of one question."""
    return {
        name: {seed: result_of({task: [score] for task, score in tasks.items()}) for seed, tasks in by_seed.items()}
        for name, by_seed in by_name.items()
    }


def test_a_tie_is_half_a_win():
    found = standings(
        cells(
            full={0: {"a": 0.5, "b": 0.5}, 1: {"a": 0.5, "b": 0.5}},
            other={0: {"a": 0.6, "b": 0.5}, 1: {"a": 0.4, "b": 0.7}},
        ),
        "full",
        higher_is_better=True,
    )["other"]
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.win_rate == 2.5 / 4


def test_where_less_is_better_the_smaller_wins():
    grid = cells(full={0: {"a": 20.0}}, other={0: {"a": 10.0}})
    found = standings(grid, "full", higher_is_better=False)
    assert (found["other"].wins, found["other"].losses) == (1, 0)
    assert (found["other"].rank, found["full"].rank) == (1, 2)
    unknown = standings(grid, "full", higher_is_better=None)
    assert unknown == {"full": Standing(), "other": Standing()}
    assert unknown["other"].win_rate is None


def test_cells_that_tie_share_their_rank():
    grid = cells(full={0: {"a": 0.5, "b": 0.9}}, x={0: {"a": 0.5, "b": 0.1}}, y={0: {"a": 0.2, "b": 0.5}})
    found = standings(grid, "full", higher_is_better=True)
    # In a: full and x share ranks 1 and 2, y is third; in b: full, y, x.
    assert {name: each.rank for name, each in found.items()} == {"full": 1.25, "x": 2.25, "y": 2.5}
    assert {(each.blocks, each.among) for each in found.values()} == {(2, 3)}
    assert found["full"].win_rate is None


def test_ranks_are_over_seeds_that_all_cells_have_and_the_base_has_every_one():
    grid = cells(
        base={0: {"a": 0.3}}, full={0: {"a": 0.5}, 1: {"a": 0.2}, 2: {"a": 0.9}}, x={1: {"a": 0.4}, 2: {"a": 0.1}}
    )
    found = standings(grid, "full", higher_is_better=True)
    # Seed 1: x, base, full. Seed 2: full, base, x.
    assert {name: each.rank for name, each in found.items()} == {"base": 2.0, "full": 2.0, "x": 2.0}
    assert (found["base"].wins, found["base"].losses) == (1, 2)
    assert (found["x"].wins, found["x"].losses) == (1, 1)
    apart = standings(cells(full={0: {"a": 0.5}}, x={1: {"a": 0.4}}), "full", higher_is_better=True)["x"]
    assert (apart.rank, apart.blocks, apart.win_rate) == (None, 0, None)


def test_sums_that_differ_in_their_last_digits_tie():
    grid = cells(full={0: {"a": 0.3}}, x={0: {"a": 0.1 + 0.2}})
    found = standings(grid, "full", higher_is_better=True)["x"]
    assert (found.ties, found.rank) == (1, 1.5)


def test_a_cell_is_on_the_front_where_no_other_does_as_well_for_as_little():
    costs = {name: Cost(parameters=value) for name, value in {"a": 10, "b": 10, "c": 20, "d": 20, "e": 30}.items()}
    scores = {"a": 0.5, "b": 0.5, "c": 0.7, "d": 0.6, "e": 0.7}
    found = fronts(costs, scores, higher_is_better=True)
    # a and b are alike in both; d costs what c does and scores less; e scores what c does and costs more.
    assert {name for name, figures in found.items() if figures} == {"a", "b", "c"}
    assert found["a"] == ("parameters",)
    turned = fronts(costs, scores, higher_is_better=False)
    assert {name for name, figures in turned.items() if figures} == {"a", "b"}
    assert not any(fronts(costs, scores, higher_is_better=None).values())


def test_a_cost_that_nobody_counted_puts_a_cell_on_no_front():
    costs = {"a": Cost(train_seconds=5.0), "b": Cost()}
    assert fronts(costs, {"a": 0.1, "b": 0.9}, higher_is_better=True) == {"a": ("train_seconds",), "b": ()}


def test_costs_are_means_of_the_runs_that_counted_them():
    found = mean_cost(
        [Cost(parameters=4, train_seconds=10.0), Cost(parameters=4, train_seconds=20.0, eval_seconds=3.0)]
    )
    assert found == Cost(parameters=4, train_seconds=15.0, eval_seconds=3.0)
    assert found.resident_gib is None
    assert mean_cost([Cost(parameters=1), Cost(parameters=2)]).parameters == pytest.approx(1.5)
