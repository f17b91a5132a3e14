"""Held-out examples: the losses on them, which checkpoint is kept, and which adapter a run ends with."""

import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState

from tests.conftest import stop_at, write_tiny_recipe
from tests.training.test_terms import PROGRESS
from topiclora_cli.adapters.record import record_routing
from topiclora_cli.data import encode_rows, load_rows
from topiclora_cli.errors import Hopeless, TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.inputs import make_batches
from topiclora_cli.training.callbacks import StopEarly
from topiclora_cli.training.checkpoints import latest_sound
from topiclora_cli.training.columns import Examples
from topiclora_cli.training.fit import train_adapter
from topiclora_cli.training.losses import pooled_probabilities, prior_distance
from topiclora_cli.training.step import aligned_layers


def priors_of(count, seed):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)).softmax(-1), torch.ones(count)


@pytest.fixture(scope="module")
def train(tiny_model_dir, tmp_path_factory):
    """Train twelve steps with eleven held-out examples; returns the folder, the result and those examples."""

    def run(*settings, held_out=11, watch=None):
        folder = tmp_path_factory.mktemp("validation")
        overrides = ["train.max_steps=12", "train.eval_steps=3", "train.batch_size=4", *settings]
        recipe = load_recipe(str(write_tiny_recipe(folder, tiny_model_dir)), overrides)
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        base = BaseModel(model, AutoTokenizer.from_pretrained(tiny_model_dir), str(tiny_model_dir))
        rows = encode_rows(load_rows(recipe.data, seed=0), base.tokenizer, max_length=200)
        validation = rows[:held_out]
        result = train_adapter(
            base,
            Examples(rows[held_out:], priors_of(len(rows) - held_out, 0)),
            recipe,
            folder=folder,
            resume=False,
            progress=PROGRESS,
            held_out=Examples(validation, priors_of(held_out, 1)) if held_out else None,
            watch=watch,
        )
        return folder, result, validation

    return run


def validations(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows if "eval_loss" in row}


def test_the_losses_are_per_token_and_per_example(train, tiny_model_dir):
    folder, _, validation = train()
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    loss, tokens, kl = 0.0, 0, 0.0
    prior, _ = priors_of(len(validation), 1)
    for index, example in enumerate(validation):
        (batch,) = make_batches(BaseModel(base, tokenizer, ""), [example])
        mask = (torch.arange(len(example.input_ids)) < example.prompt_length)[None].long()
        del batch["prompt_mask"]
        with torch.no_grad(), record_routing(model) as record:
            count = int((batch["labels"] != -100).sum())
            kept = batch["labels"].shape[1]
            loss += float(model(**batch, logits_to_keep=kept).loss) * count
        tokens += count
        names = aligned_layers(list(record.logits), "top_half")
        pooled = torch.stack([pooled_probabilities(record.logits[name], mask=mask) for name in names])
        kl += float(prior_distance(pooled, prior=prior[index : index + 1]))
    last = validations(folder)[12]
    assert last["eval_loss"] == pytest.approx(loss / tokens, abs=1e-4)
    assert last["eval_kl"] == pytest.approx(kl / len(validation), abs=1e-5)


def test_best_and_last_are_kept_and_the_best_is_taken_if_asked(train):
    # Priors drawn by chance can be learnt by heart only: on held-out examples the KL soon rises.
    harsh = ["train.router_learning_rate=1.0", "train.lr_scheduler=constant", "train.metric_for_best=eval_kl"]
    folder, result, _ = train(*harsh, "train.save_total_limit=1", "train.load_best=true")
    losses = {step: row["eval_kl"] for step, row in validations(folder).items()}
    assert set(losses) == {3, 6, 9, 12}
    best = min(losses, key=losses.get)
    assert best != 12, losses
    assert result.best["step"] == best
    final = load_file(folder / "adapter" / "adapter_model.safetensors")
    kept = load_file(folder / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors")
    torch.testing.assert_close(final, kept, rtol=0, atol=0)
    folder, result, _ = train(*harsh, "train.save_total_limit=2")
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {f"checkpoint-{best}", "checkpoint-12"}
    assert latest_sound(folder / "checkpoints")[0].name == "checkpoint-12"
    final = load_file(folder / "adapter" / "adapter_model.safetensors")
    last = load_file(folder / "checkpoints" / "checkpoint-12" / "adapter_model.safetensors")
    torch.testing.assert_close(final, last, rtol=0, atol=0)


def test_the_best_is_that_of_the_loss_unless_told_otherwise(train):
    folder, result, _ = train()
    by_loss = {step: row["eval_loss"] for step, row in validations(folder).items()}
    assert result.best["step"] == min(by_loss, key=by_loss.get)


def test_validation_changes_no_training_loss(train):
    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if "loss" in row]

    assert losses(train()[0]) == losses(train("train.eval_steps=12")[0])


def test_the_recipes_held_out_examples_are_measured_on_with_priors_of_their_own(tiny_recipe, run_cli, tmp_path):
    settings = ["data.validation=9", "train.eval_steps=3", "train.load_best=true", "train.metric_for_best=eval_kl"]
    sets = [f"--set={setting}" for setting in settings]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *sets)
    assert code == 0, text
    losses = {step: row["eval_kl"] for step, row in validations(tmp_path / "r").items()}
    assert set(losses) == {3, 6}
    record = json.loads((tmp_path / "r" / "run.json").read_text())["stages"]["train"]
    assert record["best"]["step"] == min(losses, key=losses.get)
    assert record["data"][0]["held_out"] >= 9
    assert record["examples"] == record["data"][0]["used"] == record["data"][0]["read"] - record["data"][0]["held_out"]
    final = load_file(tmp_path / "r" / "adapter" / "adapter_model.safetensors")
    best = tmp_path / "r" / "checkpoints" / f"checkpoint-{record['best']['step']}"
    torch.testing.assert_close(final, load_file(best / "adapter_model.safetensors"), rtol=0, atol=0)


def test_validation_without_held_out_examples_is_refused_before_the_model_is_loaded(tiny_recipe, run_cli):
    settings = ["--set=train.eval_steps=3", "--set=adapter.method=lora", "--set=model.name=nowhere"]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *settings)
    assert (code, "Set data.validation" in text) == (2, True), text


@pytest.mark.parametrize("setting", ["train.eval_steps=3", "train.load_best=true", "train.early_stopping_patience=2"])
def test_validation_without_held_out_examples_is_refused(setting, train):
    with pytest.raises(TopicLoraError, match="there are no held-out examples"):
        train("train.eval_steps=null", setting, held_out=0)


@pytest.mark.parametrize("patience", [1, 2])
def test_training_ends_after_validations_without_a_better_one(patience, train, monkeypatch):
    said = []
    monkeypatch.setattr(PROGRESS, "say", said.append)
    harsh = ["train.router_learning_rate=1.0", "train.lr_scheduler=constant", "train.metric_for_best=eval_kl"]
    _, patient, _ = train(*harsh)
    folder, result, _ = train(*harsh, f"train.early_stopping_patience={patience}", "train.load_best=true")
    losses = {step: row["eval_kl"] for step, row in validations(folder).items()}
    best = min(losses, key=losses.get)
    assert result.best["step"] == best == patient.best["step"]
    assert result.steps == max(losses) == best + 3 * patience < patient.steps
    line = f"Stopped at step {result.steps}: no better eval_kl in {patience} validations since step {best}."
    assert line in said
    final = load_file(folder / "adapter" / "adapter_model.safetensors")
    kept = load_file(folder / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors")
    torch.testing.assert_close(final, kept, rtol=0, atol=0)


def test_a_watched_training_ends_where_it_is_hopeless_and_is_not_asked_about_at_its_end(train):
    seen = {}

    def watch(step, loss):
        seen[step] = loss
        return step == 6 and not passing

    passing = False
    with pytest.raises(Hopeless, match=r"Stopped at step 6: a loss of \d+\.\d+ on held-out"):
        train(watch=watch)
    assert list(seen) == [3, 6]
    passing = True
    folder, result, _ = train(watch=watch)
    assert result.steps == 12
    losses = {step: row["eval_loss"] for step, row in validations(folder).items()}
    assert seen == {step: loss for step, loss in losses.items() if step < 12}


def test_a_resumed_training_goes_on_counting_validations():
    history = [{"step": step, "eval_loss": 1.0} for step in (3, 6, 9)] + [{"step": 9, "loss": 1.0}]
    callback = StopEarly(4, print)
    arguments, control = SimpleNamespace(metric_for_best_model="eval_loss"), TrainerControl()
    callback.on_train_begin(arguments, TrainerState(log_history=history, best_global_step=3), control)
    assert callback.early_stopping_patience_counter == 2
    assert not control.should_training_stop
    callback.on_train_begin(arguments, TrainerState(), control)
    assert callback.early_stopping_patience_counter == 0


def test_a_training_that_had_stopped_early_takes_no_step_when_it_is_resumed(tiny_recipe, run_cli, tmp_path):
    harsh = {"learning_rate": 5, "max_steps": 40, "eval_steps": 2, "save_steps": 2, "early_stopping_patience": 1}
    changes = {**{f"train.{key}": value for key, value in harsh.items()}, "data.validation": 4}
    changes |= {"adapter.method": "lora"}
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", *options)
    assert code == 0, text
    assert "Stopped at step" in text
    run = RunDir(tmp_path / "run")
    steps = run.stage("train").result.steps
    stop_at(run.path, steps)  # killed after its last checkpoint
    code, text = run_cli("train", "--run", "run", "--resume")
    assert code == 0, text
    assert run.stage("train").result.steps == steps


def test_the_last_step_is_no_early_stop(capsys):
    callback = StopEarly(2, print)
    arguments = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False)
    state, control = TrainerState(global_step=9, best_metric=1.0), TrainerControl(should_training_stop=True)
    callback.on_evaluate(arguments, state, control, {"eval_loss": 0.5})
    assert capsys.readouterr().out == ""
