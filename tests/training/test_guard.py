"""Runs that cannot go on: a loss that is no number, memory that is full, a checkpoint of another recipe."""

import json
import shutil

import pytest
import torch

from tests.conftest import stop_at
from tests.training.test_resume import rows
from topiclora_cli.recipe import build_recipe
from topiclora_cli.recipe.sources import source_definitions
from topiclora_cli.recipe.train import TrainSection
from topiclora_cli.training import trainer as trainer_module
from topiclora_cli.training.checkpoints import decisive_settings, latest_sound
from topiclora_cli.training.guard import explain_full_memory, is_full_memory, not_finite

ON_CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."


@pytest.fixture
def spoilt_at(monkeypatch):
    """Make the loss NaN from a step on."""

    def spoil(step):
        whole = trainer_module.DualLossTrainer.compute_loss

        def compute_loss(self, *args, **kwargs):
            loss = whole(self, *args, **kwargs)
            return loss * float("nan") if self.state.global_step + 1 >= step else loss

        monkeypatch.setattr(trainer_module.DualLossTrainer, "compute_loss", compute_loss)

    return spoil


@pytest.mark.parametrize("logging_steps", [1, 6])
def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(
    logging_steps, spoilt_at, tiny_recipe, run_cli, tmp_path
):
    spoilt_at(4)
    settings = ["--set", f"train.logging_steps={logging_steps}"]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *settings)
    assert code == 2, text
    assert "not finite at step 4, in the batch that starts with '" in text
    assert len([line for line in text.splitlines() if line.startswith("error: ")]) == 1
    checkpoint, damaged = latest_sound(tmp_path / "r" / "checkpoints")
    assert (checkpoint.name, damaged) == ("checkpoint-2", [])
    assert json.loads((tmp_path / "r" / "run.json").read_text())["stages"]["train"]["state"] == "failed"
    assert not (tmp_path / "r" / "adapter").exists()


def test_a_step_does_without_the_attention_whose_gradients_are_no_numbers(monkeypatch, tiny_recipe, run_cli):
    used = []
    whole = trainer_module.DualLossTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        used.append(torch.backends.cuda.cudnn_sdp_enabled())
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(trainer_module.DualLossTrainer, "compute_loss", compute_loss)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", "--set", "train.max_steps=2")
    assert code == 0, text
    assert set(used) == {False}
    assert torch.backends.cuda.cudnn_sdp_enabled() is before


def test_the_last_good_checkpoint_outlives_a_second_start(spoilt_at, tiny_recipe, run_cli, tmp_path, monkeypatch):
    # Without a graph no stage is done, and a run that got nowhere would be replaced.
    plain = ["--recipe", tiny_recipe, "--out", "r", "--set", "adapter.method=lora"]
    with monkeypatch.context():
        spoilt_at(4)
        assert run_cli("train", *plain)[0] == 2
    code, text = run_cli("train", *plain)
    assert (code, "exists and is not empty" in text) == (2, True), text
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    code, text = run_cli("train", "--out", "r", "--resume")
    assert code == 0, text
    assert [row["step"] for row in rows(tmp_path / "r")] == [1, 2, 3, 4, 5, 6]


def test_the_examples_are_named_briefly():
    error = not_finite(7, ["a" * 200, "b", "c"])
    assert f"'{'a' * 80}...' and 'b'" in error.message
    assert "in a batch of another process" in not_finite(7, []).message


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError(ON_CPU), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_full_memory(error, full):
    assert is_full_memory(error) is full


@pytest.mark.parametrize(
    ("section", "advice"),
    [
        ({"batch_size": 16}, "train.batch_size=8 with train.gradient_accumulation=2 gives the same curve"),
        ({"batch_size": 6, "gradient_accumulation": 3}, "train.batch_size=3 with train.gradient_accumulation=6"),
        ({"batch_size": 9}, "train.batch_size=3 with train.gradient_accumulation=3"),
        ({"batch_size": 1}, "Use --set: train.gradient_checkpointing=true"),
        ({"batch_size": 1, "gradient_checkpointing": True}, "Use --set: a lower data.max_length"),
    ],
)
def test_full_memory_says_what_to_lower_and_by_how_much(section, advice):
    with pytest.raises(Exception, match="Out of main memory") as raised, explain_full_memory(TrainSection(**section)):
        raise RuntimeError(ON_CPU)
    assert advice in str(raised.value)


def test_memory_that_a_real_allocation_lacks():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_full_memory(raised.value)


def test_full_memory_through_the_command_line_and_the_curve_of_its_advice(tiny_recipe, run_cli, tmp_path, monkeypatch):
    assert run_cli("train", "--recipe", tiny_recipe, "--out", "whole")[0] == 0
    whole = trainer_module.DualLossTrainer.training_step

    def training_step(self, model, inputs, *args, **kwargs):
        if self.state.global_step == 3 and len(inputs["input_ids"]) == 8:
            raise RuntimeError(ON_CPU)
        return whole(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(trainer_module.DualLossTrainer, "training_step", training_step)
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r")
    assert (code, "train.batch_size=4 with train.gradient_accumulation=2" in text) == (2, True), text
    settings = ["--set", "train.batch_size=4", "--set", "train.gradient_accumulation=2"]
    code, text = run_cli("train", "--out", "r", "--resume", *settings)
    assert code == 0, text
    for ours, expected in zip(rows(tmp_path / "r"), rows(tmp_path / "whole"), strict=True):
        assert ours["loss"] == pytest.approx(expected["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rate=0.02", "train.learning_rate was 0.01 and is 0.02 now"),
        ("train.batch_size=4", "train.batch_size x train.gradient_accumulation x processes was 8 and is 4 now"),
        ("loss.kl.weight=0.2", "loss.kl.weight was 0.1 and is 0.2 now"),
        ("seed=1", "seed was 0 and is 1 now"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(override, message, partly_trained, run_cli):
    code, text = run_cli("train", "--run", partly_trained, "--resume", "--set", override)
    assert (code, message in text) == (2, True), text


def decisive(**sections):
    return decisive_settings(build_recipe({"name": "r", "model": {"name": "m"}, **sections}, where="r"), 1)


def test_every_key_of_the_data_counts_but_labels():
    source = {"source": "a.jsonl", "prompt": "{{ q }}", "completion": "{{ a }}"}
    before = decisive(data={"sources": [source, source]})
    after = decisive(data={"sources": [source, {**source, "weight": None, "limit": 5}], "dedup": "exact"})
    assert {key for key in before if before[key] != after[key]} == {"data.sources.1.limit", "data.dedup"}
    spelt_out = dict(source_definitions()["gsm8k"])
    assert decisive(data={"name": "gsm8k"}) == decisive(data=spelt_out)
    assert decisive(data={"sources": [{"name": "gsm8k"}]}) == decisive(data={"sources": [spelt_out]})


def test_what_is_only_reported_of_the_graph_does_not_count():
    assert decisive(graph={"hold_out": 0.2, "compare_seeds": 5}) == decisive()


def test_the_evaluations_tasks_count_where_training_leaves_out_their_questions():
    tasks = {"tasks": ["gsm8k"]}
    assert decisive(eval=tasks) == decisive()
    assert decisive(eval=tasks, data={"decontaminate": True}) != decisive(data={"decontaminate": True})


def test_settings_that_change_no_number_may_differ(partly_trained, run_cli):
    changed = ["train.save_steps=1", "train.logging_steps=2", "train.save_total_limit=5"]
    overrides = [part for key in changed for part in ("--set", key)]
    code, text = run_cli("train", "--run", partly_trained, "--resume", *overrides)
    assert code == 0, text
    assert "Resuming from" in text


def test_a_checkpoint_whose_hash_is_wrong_is_passed_over_with_a_warning(partly_trained, run_cli):
    folder = partly_trained / "checkpoints"
    weights = folder / "checkpoint-4" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    code, text = run_cli("train", "--run", partly_trained, "--resume")
    assert code == 0, text
    assert "checkpoint-4: it is incomplete or damaged" in text
    assert f"Resuming from {folder / 'checkpoint-2'}" in text


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    from tests.conftest import write_tiny_recipe
    from topiclora_cli.cli.app import main

    folder = tmp_path_factory.mktemp("trained")
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", str(recipe), "--out", str(folder / "run"), "--set", "train.save_total_limit=3"])
    assert not stop.value.code
    return folder / "run"


@pytest.fixture
def partly_trained(trained, tmp_path):
    """A run that stopped after step 4 of 6."""
    run = shutil.copytree(trained, tmp_path / "run")
    stop_at(run, 4)
    return run
