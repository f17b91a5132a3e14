"""What `--set` changes in common settings is all cells' of a run, or none's: one comparison has one training."""

import shlex
from itertools import pairwise

import numpy as np
import pytest

from tests.ablation.finished_cells import finish_cell, some_answers
from topiclora_cli.ablation.asking import Asked
from topiclora_cli.ablation.axes import parse_axes
from topiclora_cli.ablation.existing import ask_run, keep
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe, dump_recipe, load_recipe
from topiclora_cli.runs.run import RECIPE, RunDir

R2 = Asked(axes=parse_axes(["adapter.r=2"]))


def run_of(path, **ablation):
    values = {"name": "x", "model": {"name": "m"}, "train": {"max_steps": 60}, "eval": {"tasks": ["t"]}}
    recipe = dump_recipe(build_recipe({**values, "ablation": ablation}, where="here"))
    return RunDir.create(path / "r", recipe_yaml=recipe, name="x", seed=0)


def begin(run):
    """Finish the cell `full` of a run's grid."""
    cell = make_grid(load_recipe(str(run.path / RECIPE)), only=["full"])[0]
    finish_cell(run.path / "ablation", cell, some_answers(np.random.default_rng(0), 2, 20, 0.5))


@pytest.fixture
def run(tmp_path):
    """A run that has a finished cell of 60 steps."""
    made = run_of(tmp_path)
    begin(made)
    return made


@pytest.mark.parametrize(
    ("said", "wants", "has"),
    [
        ("train.max_steps=5", "train.max_steps: 5", 60),
        ("eval.limit=2", "eval.limit: 2", None),
        ("loss.kl={weight: 0.2}", r"loss\.kl\.weight: 0\.2", 0.1),
        ("loss.kl_weight=0.2", r"loss\.kl\.weight: 0\.2", 0.1),
        ("adapter.method=molora", "adapter.method: 'molora'", "'topiclora'"),
    ],
)
@pytest.mark.filterwarnings("ignore::topiclora_cli.errors.OldSpelling")
def test_other_common_settings_than_those_of_cells_that_are_there_are_refused(run, said, wants, has):
    with pytest.raises(TopicLoraError, match=f"^--set wants {wants}, and the run's cells have {has}") as refused:
        ask_run(run, R2, [said])
    assert refused.value.hint.startswith("Begin a new study: topiclora ablate --recipe ")
    assert refused.value.hint.endswith(" --out NEW")


def test_the_study_that_a_refusal_names_has_what_was_set(tmp_path):
    run = run_of(tmp_path, overrides={"train.max_steps": 40, "data.limit": 8})
    begin(run)
    with pytest.raises(TopicLoraError, match="the run's cells have 40") as refused:
        ask_run(run, Asked(), ["train.max_steps=5"])
    words = shlex.split(refused.value.hint)
    changes = [word for before, word in pairwise(words) if before == "--set"]
    again = load_recipe(words[words.index("--recipe") + 1], changes)
    assert {(cell.recipe.train.max_steps, cell.recipe.data.limit) for cell in make_grid(again)} == {(5, 8)}


@pytest.mark.parametrize("said", ["train.max_steps=60", "seed=7", "eval.base=true", "ablation.tune={}", "name=x"])
def test_what_leaves_the_cells_as_they_are_is_this_call_s(run, said):
    found = ask_run(run, R2, [said])
    assert found.kept.said == ask_run(run, R2).kept.said
    assert [cell.recipe.train.max_steps for cell in make_grid(found.now)] == [60, 60]


def test_before_there_is_a_cell_the_run_keeps_what_was_set_for_all(tmp_path):
    run = run_of(tmp_path, overrides={"data.limit": 8, "train.max_steps": 40})
    keep(run, found := ask_run(run, R2, ["train.max_steps=5", "loss.kl.weight=0.2"]))
    later = ask_run(run, Asked())
    assert later.kept.train.max_steps == 60  # the run's own training
    assert make_grid(later.now) == make_grid(later.kept)
    for cell, same in zip(make_grid(found.now), make_grid(later.now), strict=True):
        assert (same.recipe.train.max_steps, same.recipe.data.limit, same.recipe.loss.kl.weight) == (5, 8, 0.2)
        assert cell.recipe == same.recipe
    begin(run)
    again = ask_run(run, Asked(), ["train.max_steps=5"])  # as the line that goes on says it
    assert (again.changed, [cell.recipe.train.max_steps for cell in make_grid(again.now)]) == (False, [5, 5])


def test_a_grid_asked_for_beside_is_that_of_what_is_set(tmp_path):
    found = ask_run(run_of(tmp_path), Asked(axes=parse_axes(["adapter.r=2,4"])), ["adapter.r=4"])
    assert list(found.kept.ablation.cells) == ["r=2"]
    assert found.notes == ["adapter.r=4 is the recipe itself, which is called full."]


def test_a_file_that_is_set_is_found_from_elsewhere(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    keep(run, ask_run(run, Asked(), ["graph.taxonomy=mine.yaml"]))
    kept = load_recipe(str(run.path / RECIPE))
    assert kept.ablation.overrides == {"graph.taxonomy": str(tmp_path / "mine.yaml")}


def test_a_mistake_is_told_by_where_it_was_made(run):
    with pytest.raises(TopicLoraError, match=r"--set: unknown key 'train\.max_step'"):
        ask_run(run, Asked(), ["train.max_step=5"])
