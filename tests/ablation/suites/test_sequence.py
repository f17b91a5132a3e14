"""Cells that are probed: what they ask, what they keep, and that a cell without its probes is not finished."""

import pytest

from topiclora_cli.ablation.cell import score_cell, train_cell
from topiclora_cli.ablation.finished import read_cell
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.probes import PROBES
from topiclora_cli.recipe import altered
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.request import asked_for


def test_every_probe_is_put_to_the_recipe_the_same_without_kl_and_lora(made):
    recipe, _ = made("sequence")
    assert list(recipe.ablation.cells) == ["kl_off", "lora"]
    assert all(cell.recipe.eval.probes == list(PROBES) for cell in make_grid(recipe))


def test_two_suites_that_probe_ask_for_the_probes_of_both(made):
    recipe, _ = made("topics", "sequence")
    assert sorted(recipe.eval.probes) == sorted(PROBES)


def test_an_unknown_probe_is_refused(recipe):
    with pytest.raises(TopicLoraError, match=r"eval\.probes.*'truncate'"):
        altered(recipe, [("eval.probes", ["trunkate"])], where="here")


def test_probes_are_no_part_of_what_an_evaluation_was_asked(recipe, tmp_path):
    probed = altered(recipe, [("eval.probes", ["typos"]), ("eval.probe_questions", 3)], where="here")
    run = RunDir.create(tmp_path / "run", recipe_yaml="", name="x", seed=0)
    assert asked_for(probed, run, "eval") == asked_for(recipe, run, "eval")


def test_a_cell_is_finished_when_it_is_probed(recipe, tmp_path):
    small = {"eval.probes": ["typos", "permute-options"], "eval.probe_questions": 2, "train.max_steps": 1}
    cell = make_grid(altered(recipe, small.items(), where="here"))[0]
    run = train_cell(tmp_path, cell, [cell], LoggedProgress())
    result = score_cell(tmp_path, cell, LoggedProgress())
    assert result.comparable
    assert {probed.probe for probed in result.probes.probes} <= {"typos", "permute-options"}
    assert all(probed.moved is not None for probed in result.probes.probes)
    for path in run.path.glob("eval/*/probes.json"):
        path.unlink()
    again = read_cell(tmp_path, cell)
    assert not again.comparable
    assert again.scores == result.scores
    assert score_cell(tmp_path, cell, LoggedProgress()).probes == result.probes
