"""Provenance: every stage keeps the recipe that it ran with, and later stages read what was trained."""

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import altered, build_recipe, dump_recipe, load_recipe
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.stage import record_graph_recipe, stage

RESULT = TrainResult(1, 3, 8, 40, 20, final={"step": 3, "loss": 1.5})


@pytest.fixture
def recipe():
    return build_recipe({"name": "x", "model": {"name": "m"}}, where="here")


@pytest.fixture
def run(recipe, tmp_path):
    return RunDir.create(tmp_path / "r", recipe_yaml=dump_recipe(recipe), name="x", seed=0)


def own(run):
    return load_recipe(str(run.path / "recipe.yaml"))


def test_a_training_leaves_the_recipe_that_was_trained(recipe, run):
    other = altered(recipe, [("adapter.r", 4), ("train.max_steps", 3)], where="here")
    with stage(run, "train", other) as running:
        running.result = RESULT
        assert own(run) == other  # a run that is killed here goes on with it
    assert own(run) == other
    assert load_recipe(str(run.path / "recipes" / "train.yaml")) == other
    kept = run.stage("train")
    assert (kept.recipe, kept.result) == ("recipes/train.yaml", RESULT)
    assert kept.overridden == {"adapter.r": 4, "adapter.lora_alpha": 64.0, "train.max_steps": 3}


def test_a_mistaken_override_does_not_stay(recipe, run):
    with pytest.raises(TopicLoraError), stage(run, "train", altered(recipe, [("adapter.r", 4)], where="here")):
        raise TopicLoraError("matches nothing")
    assert own(run) == recipe
    assert run.stage("train").overridden["adapter.r"] == 4


def test_a_mistake_costs_a_finished_training_nothing(recipe, run):
    with stage(run, "train", recipe) as running:
        running.result = RESULT
    kept, trained = run.stage("train"), (run.path / "recipes" / "train.yaml").read_text()
    with pytest.raises(TopicLoraError), stage(run, "train", altered(recipe, [("adapter.r", 4)], where="here")):
        raise TopicLoraError("of another recipe")
    assert run.stage("train") == kept
    assert (run.path / "recipes" / "train.yaml").read_text() == trained
    assert own(run) == recipe


def test_an_evaluation_changes_its_own_record_alone(recipe, run):
    other = altered(recipe, [("eval.limit", 7)], where="here")
    with stage(run, "eval", other, folder=run.path / "eval" / "some"):
        pass
    assert own(run) == recipe
    assert load_recipe(str(run.path / "eval" / "some" / "recipe.yaml")) == other
    assert run.stage("eval").overridden == {"eval.limit": 7}


@pytest.mark.parametrize("error", [TopicLoraError("no such task"), KeyboardInterrupt(), RuntimeError()])
@pytest.mark.parametrize("name", ["eval", "merge", "ablation"])
def test_what_fails_takes_no_earlier_outcome_s_place(name, error, recipe, run):
    with pytest.raises(type(error)), stage(run, name, recipe):
        raise error
    assert run.stage(name).state in ("failed", "interrupted")
    with stage(run, name, recipe):
        pass
    kept = run.stage(name)
    with pytest.raises(type(error)), stage(run, name, recipe):
        raise error
    assert run.stage(name) == kept


def test_a_training_reads_what_its_graph_was_built_with(recipe, run):
    other = altered(recipe, [("seed", 7), ("graph.gnn", "sage"), ("train.max_steps", 3)], where="here")
    record_graph_recipe(run, other)
    assert (own(run).seed, own(run).graph.gnn, own(run).train.max_steps) == (7, "sage", None)
    with stage(run, "train", own(run)):
        pass
    record_graph_recipe(run, recipe)
    assert own(run).seed == 7  # built anew: the adapter does not know it


def test_the_command_line_leaves_what_was_trained(tiny_recipe, run_cli, tmp_path):
    assert run_cli("build-graph", "--recipe", tiny_recipe, "--out", "r")[0] == 0
    code, text = run_cli("build-graph", "--run", "r", "--recipe", tiny_recipe)
    assert (code, "--run cannot be combined with --recipe" in text) == (2, True), text
    code, text = run_cli("train", "--run", "r", "--set", "train.max_steps=2", "--set", "adapter.r=3")
    assert code == 0, text
    recipe = load_recipe("r/recipe.yaml")
    assert (recipe.adapter.r, recipe.train.max_steps) == (3, 2)
    assert "overridden: adapter.r 3" in run_cli("runs", "show", "r")[1]
