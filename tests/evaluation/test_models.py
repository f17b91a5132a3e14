"""`topiclora eval --model A --model B`: each as if it were alone, one table, and what a name may stand for."""

import json
import re
import shutil

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.conftest import shaken
from tests.evaluation.test_command import trained  # noqa: F401 -- a fixture
from tests.evaluation.test_reuse import scored  # noqa: F401 -- a fixture
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import altered, load_recipe
from topiclora_cli.reporting.compose import compose
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.models import ModelScores
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages import contenders


@pytest.fixture
def run(trained, tmp_path):  # noqa: F811
    """A trained run with two checkpoints, the first of them the best, and the folders of two exports."""
    run = shutil.copytree(trained, tmp_path / "run")
    for step in (1, 2):
        shutil.copytree(run / "adapter", run / f"checkpoints/checkpoint-{step}", dirs_exist_ok=True)
    state = {"best_model_checkpoint": "/somewhere/else/checkpoint-1"}
    (run / "checkpoints/checkpoint-2/trainer_state.json").write_text(json.dumps(state))
    return run


def save_lora(model_dir, folder, seed=0):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    shaken(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])), seed).save_pretrained(folder)
    return folder


@pytest.fixture
def lora(tiny_model_dir, tmp_path):
    """A plain LoRA on the tiny model."""
    return save_lora(tiny_model_dir, tmp_path / "plain")


@pytest.fixture
def evaluate(run, run_cli, task_folder):
    def call(*models, more=(), tasks="few,free"):
        named = [part for model in models for part in ("--model", model)]
        return run_cli("eval", *named, "--include-path", task_folder, "--tasks", tasks, *more)

    return call


def stored(run, name):
    return read_result(run / "eval" / name / "models.json", ModelScores)


def test_each_model_scores_as_if_it_were_alone_and_is_loaded_once(
    evaluate,
    run,
    lora,
    scored,  # noqa: F811
    monkeypatch,
    tiny_model_dir,
):
    loads, load = [], contenders.open_base
    monkeypatch.setattr(contenders, "open_base", lambda recipe: loads.append(recipe) or load(recipe))
    save_lora(tiny_model_dir, run / "merged/mean/lora", seed=1)
    weights = run / "checkpoints/checkpoint-1/adapter_model.safetensors"
    save_file({key: value * 2 + 1 for key, value in load_file(weights).items()}, weights)
    models = ("base", run, run / "merged/lora", run / "checkpoints/best", lora)
    code, text = evaluate(*models, more=("--name", "all"))
    assert code == 0, text
    assert len(loads) == 5
    assert len(scored) == 2 * 5
    found = stored(run, "all")
    assert [each.label for each in found.models] == [
        *("base", "run", "run-merged-mean-lora", "run-checkpoints-checkpoint-1", "plain"),
    ]
    assert all(re.search(rf"\b{label}\b", text) for label in ("base", "run", "plain", "minus"))
    for model, each in zip(models, found.models, strict=True):
        more = ("--run", run, "--fresh", "--name", f"alone-{each.label}")
        assert evaluate(model, more=more)[0] == 0
        (alone,) = stored(run, f"alone-{each.label}").models
        for one, row in zip(alone.scores.tasks, each.scores.tasks, strict=True):
            assert (one.task, one.tuned, one.tuned_stderr) == (row.task, row.tuned, row.tuned_stderr)
            assert {key: m.tuned for key, m in one.metrics.items()} == {key: m.tuned for key, m in row.metrics.items()}


def test_differences_are_paired_with_the_first_model(evaluate, run, lora):
    assert evaluate("base", lora, more=("--run", run, "--name", "two"))[0] == 0
    assert evaluate("base", run, more=("--name", "three"))[0] == 0
    first, other = stored(run, "two").models
    assert first.scores.tasks[0].base is None
    for row in other.scores.tasks:
        own = next(each for each in first.scores.tasks if each.task == row.task)
        assert (row.base, row.delta) == (own.tuned, row.tuned - own.tuned)
        test = other.tests[row.task]
        assert test.low <= row.delta <= test.high
        assert 0 < test.p <= test.p_holm <= 1
    page = compose([RunDir(run)])
    assert {"Models side by side, `two`", "Models side by side, `three`"} <= {each.title for each in page.sections}


def test_nothing_is_scored_twice_or_overwritten(evaluate, run, lora, scored, tmp_path):  # noqa: F811
    assert evaluate("base", run, tasks="few,many")[0] == 0
    first = next((run / "eval").glob("few*"))
    before = (first / "models.json").read_bytes()
    scored.clear()
    assert evaluate("base", run, lora, tasks="few,many")[0] == 0
    assert scored == ["few", "many"]
    assert evaluate("base", run, tasks="few,many", more=("--reuse",))[0] == 0
    assert scored == ["few", "many"]
    assert (first / "models.json").read_bytes() == before
    assert evaluate("base", run, tasks="few,many", more=("--fresh",))[0] == 0
    assert len(scored) == 6
    again = [
        path for path in (run / "eval").glob("*/models.json") if path.parent != first and "3" not in path.parent.name
    ]
    assert len(again) == 1
    assert (first / "models.json").read_bytes() == before


@pytest.mark.parametrize("number", range(1, 5))
def test_it_goes_on_with_the_next_task_of_the_next_model(evaluate, run, scored, number):  # noqa: F811
    scored.stop_at = number
    assert evaluate("base", run, tasks="few,many")[0] != 0
    assert not list((run / "eval").glob("*/models.json"))
    scored.clear()
    scored.stop_at = 0
    assert evaluate("base", run, tasks="few,many")[0] == 0
    assert scored == (["few", "many"] * 2)[number - 1 :]


def test_models_that_belong_to_no_run(evaluate, lora, tiny_model_dir, tmp_path):
    whole = shutil.copytree(tiny_model_dir, tmp_path / "whole")
    code, text = evaluate(whole, lora, tiny_model_dir, more=("--name", "mine", "--limit", "3"))
    assert code == 0, text
    found = read_result(tmp_path / "eval/mine/models.json", ModelScores)
    first, _, same = found.models
    assert first.content == same.content
    assert {row.delta for row in same.scores.tasks} == {0}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("base", "base"), "is named twice"),
        (("base", "run/checkpoints/best-of-all"), "There are: checkpoint-1, checkpoint-2"),
        (("base", "run/merged/lora"), "has no export lora"),
        (("base", "run/graph-or-so"), "Cannot load the model"),
        (("run/checkpoints",), "is neither a run nor a folder of a model or an adapter"),
    ],
)
def test_a_name_of_nothing_is_one_line(evaluate, run, names, message, few_tasks):
    code, text = evaluate(*names, more=("--run", run), tasks="few")
    assert (code, message in text) == (2, True), text


def test_a_model_with_code_of_its_own_is_loaded_with_leave_alone(run, tiny_model_dir):
    export = shutil.copytree(tiny_model_dir, run / "merged/mean/self-loading")
    config = json.loads((export / "config.json").read_text())
    (export / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "code.Model"}}))
    recipe = load_recipe(str(run / "recipe.yaml"))
    with pytest.raises(TopicLoraError, match="loaded by code that lies in it") as error:
        contenders.contenders([str(export)], recipe)
    assert error.value.hint == "Read it, and add --set model.trust_remote_code=true"
    (model,) = contenders.contenders(
        [str(export)], altered(recipe, {"model.trust_remote_code": True}.items(), where="--set")
    )
    assert model.recipe.model.trust_remote_code
