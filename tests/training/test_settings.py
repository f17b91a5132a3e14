"""Recipe keys that change how a training run goes: its warm-up, and what its loss is taken over."""

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from topiclora_cli.recipe.train import SCHEDULERS
from topiclora_cli.runs.results.metrics import read_metrics


@pytest.fixture
def train(tiny_recipe, run_cli, tmp_path):
    """Train the tiny recipe, six steps, under some settings; returns the rows of metrics.jsonl."""

    def run(*settings):
        folder = tmp_path / "-".join(settings)
        changes = [part for setting in settings for part in ("--set", setting)]
        code, text = run_cli(
            "train", "--recipe", tiny_recipe, "--out", folder, "--set", "adapter.method=lora", *changes
        )
        assert code == 0, text
        return [row.values for row in read_metrics(folder / "metrics.jsonl")]

    return run


def test_warm_up_steps_override_the_ratio(train):
    peaks = {}
    for settings in (["train.warmup_ratio=0.5"], ["train.warmup_ratio=0.5", "train.warmup_steps=1"]):
        rates = [row["learning_rate"] for row in train("train.learning_rate=0.01", *settings)]
        peaks[len(settings)] = rates.index(max(rates))
        assert max(rates) == pytest.approx(0.01)
    assert peaks == {1: 3, 2: 1}


def test_no_warm_up_at_all(train):
    assert train("train.learning_rate=0.01", "train.warmup_steps=0")[0]["learning_rate"] == pytest.approx(0.01)


def test_the_prompt_counts_in_the_loss_where_the_recipe_says_so(train):
    on_answer, on_all = train("data.train_on_prompt=false"), train("data.train_on_prompt=true")
    assert on_all[0]["loss_lm"] != pytest.approx(on_answer[0]["loss_lm"], abs=1e-4)
    # Prompts repeat from row to row, and few answers do.
    assert on_all[-1]["loss_lm"] < on_answer[-1]["loss_lm"]


def test_noise_on_the_embeddings_is_of_training_alone(train):
    held_out = ("data.validation=4", "train.eval_steps=6", "train.learning_rate=1e-12")
    plain, noisy = train(*held_out), train("train.neftune_noise_alpha=50", *held_out)
    assert noisy[0]["loss"] != pytest.approx(plain[0]["loss"], abs=1e-4)
    (before,), (after,) = ([row["eval_loss"] for row in rows if "eval_loss" in row] for rows in (plain, noisy))
    assert after == pytest.approx(before)


def test_several_gpus_in_one_process_are_refused_with_the_line_that_uses_them(run_cli, tiny_recipe, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    code, text = run_cli("train", "--recipe", str(tiny_recipe), "--out", "run")
    assert code == 2
    assert "sees 4 GPUs" in text
    assert "torchrun --nproc-per-node 4" in text


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_needs_nothing_more(name):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    assert get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=4)
