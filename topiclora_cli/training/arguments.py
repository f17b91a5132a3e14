"""A recipe's train section in the words of transformers' TrainingArguments."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments

from topiclora_cli.data import Encoded
from topiclora_cli.data.stream import ExampleStream
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.processes import process_count


def check_settings(recipe: Recipe, *, validates: bool) -> None:
    """Raises TopicLoraError where the train section asks for what these examples and processes cannot give."""
    train = recipe.train
    for key in ("eval_steps", "load_best", "early_stopping_patience"):
        if getattr(train, key) and not validates:
            raise TopicLoraError(
                f"train.{key} is set, but there are no held-out examples.",
                f"Set data.validation, or raise it, or leave train.{key} out.",
            )
    if train.lr_scheduler == "reduce_lr_on_plateau" and not validates:
        raise TopicLoraError(
            "train.lr_scheduler: reduce_lr_on_plateau waits for held-out losses, and there are no held-out examples.",
            "Set data.validation, or choose another schedule.",
        )
    if train.fsdp and recipe.data.streaming and recipe.needs_graph and recipe.graph.encoder == "lm":
        raise TopicLoraError(
            "data.streaming makes priors in training, and graph.encoder 'lm' cannot read a base that FSDP shards.",
            "Set another graph.encoder, or leave out data.streaming or train.fsdp.",
        )
    if train.fsdp and process_count() == 1:
        raise TopicLoraError(
            "train.fsdp is set, but there is one process alone.",
            "Start one per GPU with torchrun, or leave it out.",
        )


def count_examples(recipe: Recipe, encoded: Sequence[Encoded] | ExampleStream) -> int:
    """How many examples there are; of a stream, which has no end, how many will be taken."""
    if not isinstance(encoded, ExampleStream):
        return len(encoded)
    return (recipe.train.max_steps or 0) * per_step(recipe)


def count_steps(recipe: Recipe, examples: int) -> int:
    """Optimizer steps of a training run over `examples`; the last of an epoch takes what is left of them.

    Several processes fill their last batches up with the first examples, so that all take part.
    """
    train = recipe.train
    each = math.ceil(examples / per_step(recipe))
    return train.max_steps or max(1, math.ceil(round(train.epochs * each, 6)))


def training_arguments(recipe: Recipe, folder: Path, steps: int, *, validates: bool) -> TrainingArguments:
    """How to train for `steps`, with checkpoints in `folder`; with `validates`, one at every validation."""
    train = recipe.train
    every = train.eval_steps or train.save_steps
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        max_steps=steps,
        optim=train.optimizer,
        torch_compile=train.torch_compile,
        use_liger_kernel=train.liger,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=round(train.warmup_ratio * steps) if train.warmup_steps is None else train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        neftune_noise_alpha=train.neftune_noise_alpha,
        use_cpu=not torch.accelerator.is_available(),
        bf16=use_bfloat16(train.precision),
        activation_checkpointing=train.gradient_checkpointing,
        # Reentrant checkpointing would silently give the KL a zero gradient.
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=train.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validates else "no",
        eval_steps=every if validates else None,
        metric_for_best_model=train.metric_for_best if validates else None,
        greater_is_better=False if validates else None,
        load_best_model_at_end=train.load_best,
        save_strategy="steps",
        # What is best must have been saved when it was found to be.
        save_steps=every if validates else train.save_steps,
        # Older checkpoints go once the newest is sealed (callbacks.SealCheckpoints).
        save_total_limit=None,
        report_to=list(train.report_to) or "none",
        seed=recipe.seed,
        remove_unused_columns=False,
        # Every trained parameter takes part in every step, and looking for others costs a walk over the graph.
        ddp_find_unused_parameters=False,
        fsdp=train.fsdp or None,  # type: ignore[arg-type]
        fsdp_config=dict(train.fsdp_config) if train.fsdp else None,
        disable_tqdm=True,
        # Of a stream, every process reads all and keeps its share: batches differ in width and cannot be handed out.
        accelerator_config={"dispatch_batches": False},
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def per_step(recipe: Recipe) -> int:
    """Examples of one optimizer step, over all processes."""
    return recipe.train.batch_size * recipe.train.gradient_accumulation * process_count()
