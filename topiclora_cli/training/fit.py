"""One training run: adapter on the base, rows into batches, Trainer around both, adapter saved at the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from peft.tuners.xlora import XLoraModel
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from topiclora_cli.adapters.counting import count_parameters
from topiclora_cli.files import replacing
from topiclora_cli.models import BaseModel, accepts_logits_to_keep, use_bfloat16
from topiclora_cli.progress import Progress
from topiclora_cli.recipe import Recipe
from topiclora_cli.training.attach import attach_adapter, without_adapter
from topiclora_cli.training.callbacks import (
    AllocateRanks,
    GracefulStop,
    MetricsLog,
    MoveBar,
    SealCheckpoints,
    read_metrics,
)
from topiclora_cli.training.checkpoints import latest_sound
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.data import Encoded
from topiclora_cli.training.data.stream import ExampleStream
from topiclora_cli.training.trainer import DualLossTrainer


class Interrupted(Exception):
    """Training stopped on a signal after saving a checkpoint."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"interrupted at step {step}")
        self.exit_code = 128 + signal_number
        self.step = step


@dataclass(frozen=True)
class TrainResult:
    """What a finished training run reports: parameters, steps, and the losses of its last logged step."""

    steps: int
    examples: int
    total_parameters: int
    activated_parameters: int
    final: dict[str, float]


def train_adapter(
    base: BaseModel,
    encoded: Sequence[Encoded] | ExampleStream,
    recipe: Recipe,
    *,
    folder: Path,
    priors: tuple[torch.Tensor, torch.Tensor] | None,
    resume: bool,
    progress: Progress,
    **extra: Any,
) -> TrainResult:
    """Train an adapter and save it to `folder/adapter` in peft's format.

    priors: pi (n, E) and confidence (n,), or None to train without the KL; a stream brings its own. extra: further
    settings of the mixture. Raises Interrupted after a signal, with a checkpoint saved, and TopicLoraError where the
    adapter does not fit.
    """
    set_seed(recipe.seed)
    examples = count_examples(recipe, encoded)
    steps = count_steps(recipe, examples)
    model = attach_adapter(base, recipe, total_steps=steps, progress=progress, **extra)
    total, activated = count_parameters(model)
    checkpoints = folder / "checkpoints"
    checkpoint, damaged = latest_sound(checkpoints) if resume else (None, [])
    for path in damaged:
        progress.say(f"Skipping {path}: it is incomplete or damaged.")
    if resume:
        progress.say(f"Resuming from {checkpoint}." if checkpoint else "No checkpoint to resume from; starting over.")
    arguments = _training_arguments(recipe, checkpoints, steps)
    transformers_logging.set_verbosity_error()
    with GracefulStop() as stop, progress.track("train", arguments.max_steps) as advance:
        trainer = _make_trainer(base, model, encoded, recipe, arguments, priors)
        trainer.remove_callback(PrinterCallback)
        for callback in (MetricsLog(folder / "metrics.jsonl"), SealCheckpoints(), stop, MoveBar(advance)):
            trainer.add_callback(callback)
        if recipe.adapter.method == "adalora":
            trainer.add_callback(AllocateRanks())
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.signal is not None and trainer.state.global_step < arguments.max_steps:
        raise Interrupted(stop.signal, trainer.state.global_step)
    if trainer.is_world_process_zero():
        save_adapter(model, folder / "adapter")
    final = read_metrics(folder / "metrics.jsonl")[-1]
    return TrainResult(trainer.state.global_step, examples, total, activated, final)


def save_adapter(model: PeftModel, path: Path) -> None:
    """Write a peft adapter folder in one step."""
    with replacing(path) as temporary:
        model.save_pretrained(str(temporary))
        if isinstance(model.base_model, XLoraModel):
            _add_xlora_classifier(model, temporary / "adapter_model.safetensors")


def _add_xlora_classifier(model: PeftModel, path: Path) -> None:
    # peft 0.21 leaves X-LoRA's classifier, which is what it trains, out of the file; reading it back does work.
    prefix = "base_model.internal_xlora_classifier."
    classifier = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}
    save_file({**load_file(path), **classifier}, path, metadata={"format": "pt"})


def _make_trainer(
    base: BaseModel,
    model: PeftModel,
    encoded: Sequence[Encoded] | ExampleStream,
    recipe: Recipe,
    arguments: TrainingArguments,
    priors: tuple[torch.Tensor, torch.Tensor] | None,
) -> Trainer:
    if isinstance(encoded, ExampleStream):
        encoded.base_alone = partial(without_adapter, model)
    return DualLossTrainer(
        model=model,
        args=arguments,
        train_dataset=encoded if isinstance(encoded, ExampleStream) else _table(encoded, priors),
        data_collator=Collator(
            base.tokenizer.pad_token_id,
            trim_labels=accepts_logits_to_keep(base.model),
            train_on_prompt=recipe.data.train_on_prompt,
        ),
        loss_section=recipe.loss,
        router_learning_rate=recipe.train.router_learning_rate,
        loraplus_lr_ratio=recipe.train.loraplus_lr_ratio,
        group_by_length=recipe.train.group_by_length,
    )


def _table(encoded: Sequence[Encoded], priors: tuple[torch.Tensor, torch.Tensor] | None) -> Dataset:
    columns: dict[str, list[Any]] = {
        "input_ids": [example.input_ids for example in encoded],
        "prompt_length": [example.prompt_length for example in encoded],
        "length": [len(example.input_ids) for example in encoded],
    }
    if priors is not None:
        columns["prior"], columns["confidence"] = priors[0].tolist(), priors[1].tolist()
    return Dataset.from_dict(columns)


def count_examples(recipe: Recipe, encoded: Sequence[Encoded] | ExampleStream) -> int:
    """How many examples there are; of a stream, which has no end, how many will be taken."""
    if not isinstance(encoded, ExampleStream):
        return len(encoded)
    train = recipe.train
    return (train.max_steps or 0) * train.batch_size * train.gradient_accumulation


def count_steps(recipe: Recipe, examples: int) -> int:
    """Optimizer steps of a training run over `examples`."""
    train = recipe.train
    per_step = train.batch_size * train.gradient_accumulation
    return train.max_steps or max(1, round(train.epochs * examples / per_step))


def _training_arguments(recipe: Recipe, folder: Path, steps: int) -> TrainingArguments:
    train = recipe.train
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        max_steps=steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=round(train.warmup_ratio * steps) if train.warmup_steps is None else train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        use_cpu=not torch.accelerator.is_available(),
        bf16=use_bfloat16(train.precision),
        activation_checkpointing=train.gradient_checkpointing,
        # Reentrant checkpointing would silently give the KL a zero gradient.
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=train.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=train.save_steps,
        save_total_limit=train.save_total_limit,
        report_to=train.report_to or "none",
        seed=recipe.seed,
        remove_unused_columns=False,
        disable_tqdm=True,
        # Of a stream, every process reads all and keeps its share: batches differ in width and cannot be handed out.
        accelerator_config={"dispatch_batches": False},
        dataloader_pin_memory=torch.cuda.is_available(),
    )
