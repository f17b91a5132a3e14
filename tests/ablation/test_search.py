"""A search: what optuna proposes for a cell, by what the runs of earlier proposals came to."""

import importlib.util
import json
import math

import pytest

from topiclora_cli.ablation.failures import record_failure
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.pruning import pruned
from topiclora_cli.ablation.search import Search, require_optuna
from topiclora_cli.ablation.states import cell_states
from topiclora_cli.ablation.study import distributions
from topiclora_cli.ablation.trials import RECORD, Expansion, read_trials
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import Hopeless, TopicLoraError
from topiclora_cli.recipe import build_recipe, dump_recipe
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.record import StageRecord
from topiclora_cli.runs.results.search import Searches, Trial
from topiclora_cli.runs.run import RunDir

pytest.importorskip("optuna")

RATE = "train.learning_rate"


def recipe(trials=3, tune=None, **ablation):
    values = {
        "name": "x",
        "model": {"name": "m"},
        "data": {"validation": 4},
        "train": {"learning_rate": 1e-3},
        "ablation": {"search": "optuna", "trials": trials, "tune": tune or {RATE: "1e-4..1e-1:log"}, **ablation},
    }
    return build_recipe(values, where="here")


def train(folder, cell, loss):
    """Leave what the training of a cell leaves."""
    if (folder / cell.folder).exists():  # the same values came before
        return
    run = RunDir.create(folder / cell.folder, recipe_yaml=dump_recipe(cell.recipe), name=cell.name, seed=cell.seed)
    if loss == math.inf:
        run.update(diverged="no number")
    elif loss is None:
        record_failure(run, cell, "Out of memory.", "")
    else:
        run.record("train", StageRecord("done"))
        (run.path / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval_loss": loss}) + "\n")


def rate(cell):
    return dict(cell.tuned)[RATE]


def off(cell):
    """A loss that is least at a rate of 0.01."""
    return 1 + abs(math.log10(rate(cell)) + 2)


def search_all(search, folder, loss=off):
    found = []
    while (cell := search.propose()) is not None:
        found.append(cell)
        train(folder, cell, loss(cell))
    search.update()
    return found


def test_a_search_comes_near_the_best_and_the_rest_of_the_grid_goes_on_with_it(tmp_path):
    grid = make_grid(recipe(trials=12, seeds=[0, 1]))
    assert [cell.folder for cell in grid] == ["full-s0", "untuned-s0", "full-s1", "untuned-s1"]
    assert [cell.folder for cell in Work(grid, tmp_path).left()] == ["untuned-s0", "untuned-s1"]
    search = Search(grid, tmp_path, LoggedProgress())
    assert search.to_come == 12
    found = search_all(search, tmp_path)
    assert (len(found), search.to_come) == (12, 0)
    assert rate(found[0]) == 1e-3  # the recipe's own value comes first
    assert all(1e-4 <= rate(cell) <= 1e-1 for cell in found)
    best = min(found, key=off)
    assert off(best) < 1.3
    work = Work(grid, tmp_path)
    assert work.choice("full").values == best.tuned
    left = [cell.folder for cell in work.left()]
    assert left == [best.folder, "untuned-s0", best.folder.replace("s0", "s1"), "untuned-s1"]


def test_every_cell_has_as_many_trials_and_one_that_says_the_value_itself_has_none(tmp_path):
    grid = make_grid(recipe(cells={"off": {"loss.kl.weight": 0.0}, "slow": {RATE: 1e-4}}))
    assert [cell.name for cell in grid if cell.axes] == ["full", "off"]
    found = search_all(Search(grid, tmp_path, LoggedProgress()), tmp_path)
    assert [cell.name for cell in found] == ["full", "off"] * 3


def test_proposals_depend_on_what_is_finished_and_not_on_who_asks(tmp_path):
    grid = make_grid(recipe(trials=5))
    alone = search_all(Search(grid, tmp_path / "a", LoggedProgress()), tmp_path / "a")
    divided = []
    while (cell := Search(grid, tmp_path / "b", LoggedProgress()).propose()) is not None:
        divided.append(cell)
        train(tmp_path / "b", cell, off(cell))
    assert [cell.tuned for cell in divided] == [cell.tuned for cell in alone]


def test_a_trial_that_nobody_finished_is_a_run_for_whoever_comes_next(tmp_path):
    grid = make_grid(recipe())
    cell = Search(grid, tmp_path, LoggedProgress()).propose()
    assert Work(grid, tmp_path).left()[0] == cell
    assert [trial.state for trial in next(iter(read_trials(tmp_path).trials.values()))] == ["open"]


def test_trials_that_diverge_or_fail_count_and_are_not_chosen(tmp_path):
    grid = make_grid(recipe(trials=3))
    losses = iter([math.inf, None, 2.0])
    found = search_all(Search(grid, tmp_path, LoggedProgress()), tmp_path, lambda cell: next(losses))
    (trials,) = read_trials(tmp_path).trials.values()
    assert [trial.state for trial in trials] == ["diverged", "failed", "done"]
    assert trials[1].reason == "Out of memory."
    assert Work(grid, tmp_path).choice("full").values == found[2].tuned


def test_a_search_without_an_end_says_why_its_cell_is_not_run(tmp_path):
    grid = make_grid(recipe(trials=2))
    search_all(Search(grid, tmp_path, LoggedProgress()), tmp_path, lambda cell: None)
    state = cell_states(grid, tmp_path)[0]
    assert state.reason == "not run, because none of its 2 trials came to an end; the last failed: Out of memory."
    assert [cell.name for cell in Work(grid, tmp_path).left()] == ["untuned"]


EXPERTS = {"adapter.num_experts": "2..32:int", "adapter.top_k": "1..8:int"}


def can_be(trial):
    return trial.values["adapter.top_k"] <= trial.values["adapter.num_experts"]


def test_values_that_cannot_be_together_are_a_trial_that_failed_and_the_search_goes_on(tmp_path):
    grid = make_grid(recipe(trials=25, tune=EXPERTS))
    found = search_all(Search(grid, tmp_path, LoggedProgress()), tmp_path, lambda cell: cell.recipe.adapter.num_experts)
    (trials,) = read_trials(tmp_path).trials.values()
    refused = [trial for trial in trials if not can_be(trial)]
    assert refused
    assert {trial.state for trial in refused} == {"failed"}
    assert "top_k" in refused[0].reason
    assert (len(found), len(trials)) == (25 - len(refused), 25)
    assert {state.state for state in cell_states(grid, tmp_path)} == {"tried", "waiting"}
    assert Work(grid, tmp_path).choice("full") is not None


def test_a_search_of_values_of_which_none_can_be_ends(tmp_path, monkeypatch):
    def refuse(cell, values):
        raise TopicLoraError("These cannot be together.")

    grid = make_grid(recipe(trials=3))
    monkeypatch.setattr("topiclora_cli.ablation.trials.with_values", refuse)
    assert Search(grid, tmp_path, LoggedProgress()).propose() is None
    assert cell_states(grid, tmp_path)[0].reason == (
        "not run, because none of its 3 trials came to an end; the last failed: These cannot be together."
    )


def test_a_grid_that_an_earlier_version_left_with_such_a_trial_open_goes_on(tmp_path):
    grid = make_grid(recipe(trials=3, tune=EXPERTS))
    search = Search(grid, tmp_path, LoggedProgress())
    (cell,) = search.cells
    study = search._study(cell)
    study.enqueue_trial({"adapter.num_experts": 4, "adapter.top_k": 7})
    asked = [study.ask(distributions(cell)) for _ in range(2)]
    opened = tuple(Trial(trial.number, trial.params, "open") for trial in asked)
    write_result(tmp_path / RECORD, Searches({cell.search_name: opened}))
    own = "full-s0-num_experts=8-top_k=2"
    assert [state.folder for state in cell_states(grid, tmp_path)] == [own, "full-s0", "untuned-s0"]
    assert [each.folder for each in Work(grid, tmp_path).left()] == [own, "untuned-s0"]
    search.update()
    (trials,) = read_trials(tmp_path).trials.values()
    assert [trial.state for trial in trials] == ["open", "failed"]
    assert "top_k" in trials[1].reason


def test_another_space_or_another_first_seed_is_another_search(tmp_path):
    search_all(Search(make_grid(recipe()), tmp_path, LoggedProgress()), tmp_path)
    wider = make_grid(recipe(tune={RATE: "1e-5..1e-1:log"}))
    assert len(search_all(Search(wider, tmp_path, LoggedProgress()), tmp_path)) == 3
    assert [len(trials) for trials in read_trials(tmp_path).trials.values()] == [3, 3]
    assert len(search_all(Search(make_grid(recipe(seeds=[1])), tmp_path, LoggedProgress()), tmp_path)) == 3


def test_a_best_value_at_an_end_of_its_range_is_told(tmp_path):
    grid = make_grid(recipe(trials=2, tune={"adapter.r": "2..40:int"}))
    search_all(Search(grid, tmp_path, LoggedProgress()), tmp_path, lambda cell: 1.0)
    assert Work(grid, tmp_path).choice("full").edges == []
    from topiclora_cli.recipe.space import Range

    assert Range(1e-4, 1e-1, log=True).is_end(0.095)
    assert not Range(1e-4, 1e-1, log=True).is_end(0.05)
    assert Range(2, 40, whole=True).is_end(40)


def test_a_trial_worse_than_the_median_is_stopped_and_its_study_knows(tmp_path):
    values = recipe(trials=8)
    values = values.model_copy(update={"train": values.train.model_copy(update={"eval_steps": 2})})
    grid = make_grid(build_recipe({**values.said, "train": {"learning_rate": 1e-3, "eval_steps": 2}}, where="here"))
    search = Search(grid, tmp_path, LoggedProgress())
    for _ in range(5):
        cell = search.propose()
        with pruned(tmp_path, cell) as is_hopeless:
            assert not is_hopeless(2, 1.0)
        train(tmp_path, cell, 1.0)
    cell = search.propose()
    with pruned(tmp_path, cell) as is_hopeless:
        assert is_hopeless(2, 5.0)
        raise Hopeless("no good by then")
    search.update()
    (trials,) = read_trials(tmp_path).trials.values()
    assert [trial.state for trial in trials] == ["done"] * 5 + ["stopped"]
    assert cell.folder not in {each.folder for each in Expansion(grid, tmp_path).cells()}


def test_without_validations_on_the_way_nothing_is_stopped(tmp_path):
    grid = make_grid(recipe())
    with pruned(tmp_path, Search(grid, tmp_path, LoggedProgress()).propose()) as is_hopeless:
        assert is_hopeless is None


def test_what_is_drawn_has_a_folder_of_its_own():
    make_grid(recipe(trials=2, tune={"train.max_steps": "1000000..1000002:int"}))
    for values in ("0.00123449999..0.00123450001", [0.1, 0.2, 0.3, 0.30000001]):
        with pytest.raises(TopicLoraError, match=r"ablation\.tune: two values of train\.learning_rate would be called"):
            make_grid(recipe(trials=2, tune={RATE: values}))


def test_mistakes(monkeypatch):
    with pytest.raises(TopicLoraError, match=r"ablation\.tune of full: adapter\.r: .*valid integer"):
        make_grid(recipe(tune={"adapter.r": "4..64"}))
    with pytest.raises(TopicLoraError, match=r"ablation\.tune of full: train\.learning_rate: .*greater than 0"):
        make_grid(recipe(tune={RATE: "-1..1"}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopicLoraError, match=r"not installed\. Install it: pip install 'topiclora\[optuna\]'"):
        require_optuna(make_grid(recipe()))
