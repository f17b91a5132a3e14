"""One training run: adapter on the base, rows into batches, Trainer around both, adapter saved at the end."""

import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from topiclora_cli.adapters.counting import count_parameters
from topiclora_cli.data.stream import ExampleStream
from topiclora_cli.data.vocabulary import refuse_unknown_tokens
from topiclora_cli.errors import Interrupted, TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.logits import selects_logits
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.processes import in_first, process_count, wait_for_all
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.metrics import LoggedStep, read_metrics
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import METRICS
from topiclora_cli.training.arguments import check_settings, count_examples, count_steps, training_arguments
from topiclora_cli.training.attach import adapts_head, attach_adapter, without_adapter
from topiclora_cli.training.callbacks import (
    GracefulStop,
    MetricsLog,
    MoveBar,
    SealCheckpoints,
    SetEpoch,
    ShareBuffers,
    StopEarly,
    Watch,
    Watched,
)
from topiclora_cli.training.checkpoints import EXAMPLES, decisive_settings, latest_sound, refuse_other_settings, step_of
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.columns import Examples, make_dataset, weighs
from topiclora_cli.training.eva import start_from_activations
from topiclora_cli.training.fingerprint import fingerprint
from topiclora_cli.training.guard import explain_full_memory, finite_attention
from topiclora_cli.training.packing import refuse_packing
from topiclora_cli.training.padding import refuse_padding
from topiclora_cli.training.ranks import AllocateRanks
from topiclora_cli.training.saving import left_out, save_adapter
from topiclora_cli.training.trainer import DualLossTrainer


def train_adapter(
    base: BaseModel,
    examples: Examples | ExampleStream,
    recipe: Recipe,
    *,
    folder: Path,
    resume: bool,
    progress: Progress,
    held_out: Examples | None = None,
    attach: Callable[..., PeftModel] = attach_adapter,
    watch: Watch | None = None,
    **extra: Any,
) -> TrainResult:
    """Train an adapter and save it to `folder/adapter` in peft's format.

    held_out: examples to validate on; attach: what puts it on the base, a fresh one unless told, called as
    `attach_adapter` is; watch: whether to give up after a validation, with Hopeless; extra: further settings of the
    mixture. Raises Interrupted after a signal, with a checkpoint saved, and TopicLoraError where the adapter does not
    fit, a checkpoint is of another recipe, memory runs out, or the loss is no number.
    """
    check_settings(recipe, validates=held_out is not None)
    refuse_padding(base, recipe.train)
    embedded = len(base.model.get_input_embeddings().weight)  # type: ignore[arg-type]
    encoded = examples if isinstance(examples, ExampleStream) else examples.encoded
    if not isinstance(encoded, ExampleStream):
        texts = [example.input_ids for example in [*encoded, *(held_out.encoded if held_out else ())]]
        refuse_unknown_tokens(texts, base.tokenizer, embedded)
    # Of the base alone: with an adapter a trial would be of its routers, too.
    selects = selects_logits(base.model, bfloat16=use_bfloat16(recipe.train.precision))
    set_seed(recipe.seed)
    count = count_examples(recipe, encoded)
    steps = count_steps(recipe, count)
    model = attach(base, recipe, total_steps=steps, progress=progress, **extra)
    if recipe.train.packing:
        refuse_packing(recipe, model)
    if recipe.train.liger and adapts_head(model):
        raise TopicLoraError(
            "train.liger reads the output head's weight itself, so that an adapter on it would never run.",
            "Leave the head out of adapter.target_modules, or leave out train.liger.",
        )
    with_prompt = recipe.data.train_on_prompt
    weighted = (
        encoded.weighs
        if isinstance(encoded, ExampleStream)
        else weighs([*encoded, *(held_out.encoded if held_out else ())], with_prompt=with_prompt)
    )
    if recipe.train.liger and weighted:
        raise TopicLoraError(
            "train.liger takes the mean over tokens itself, where all weigh the same, and these have loss weights.",
            "Leave out train.liger, or data's loss_weight and the weights of messages.",
        )
    total, activated = count_parameters(model)
    settings = {**decisive_settings(recipe, process_count()), EXAMPLES: fingerprint(encoded)}
    checkpoint = _find_checkpoint(folder / "checkpoints", settings, progress) if resume else None
    arguments = training_arguments(recipe, folder / "checkpoints", steps, validates=held_out is not None)
    transformers_logging.set_verbosity_error()
    done = step_of(checkpoint) if checkpoint else 0
    with GracefulStop() as stop, progress.track("training", arguments.max_steps, done) as advance:
        if isinstance(examples, ExampleStream):
            examples.base_alone, examples.embedded = partial(without_adapter, model), embedded
        train_set = examples if isinstance(examples, ExampleStream) else make_dataset(examples, with_prompt=with_prompt)
        validation = make_dataset(held_out, with_prompt=with_prompt) if held_out is not None else None
        trainer = _make_trainer(
            base, model, recipe, arguments, train_set, validation, selects=selects, weighted=weighted
        )
        if recipe.train.fsdp and not trainer.is_fsdp_enabled:
            raise TopicLoraError(
                f"train.fsdp is set, but accelerate shards over GPUs only, not over {arguments.device.type}s.",
                "Leave train.fsdp out: processes then hold the whole model each.",
            )
        if trainer.is_fsdp_enabled and (others := left_out(model)):
            raise TopicLoraError(
                f"Checkpoints under train.fsdp would lack {next(iter(others))}, which {recipe.adapter.method} trains.",
                "Leave train.fsdp out.",
            )
        stop.accelerator = trainer.accelerator
        log = MetricsLog(folder / METRICS, progress.say)
        trainer.remove_callback(PrinterCallback)
        if recipe.adapter.method == "adalora":
            trainer.add_callback(AllocateRanks(model, checkpoint))
        for callback in (
            log,
            SealCheckpoints(settings, recipe.train.save_total_limit),
            SetEpoch(),
            stop,
            MoveBar(advance),
        ):
            trainer.add_callback(callback)
        if patience := recipe.train.early_stopping_patience:
            trainer.add_callback(StopEarly(patience, progress.say))
        if watch is not None:
            trainer.add_callback(Watched(watch))
        if trainer.is_fsdp_enabled:
            trainer.add_callback(ShareBuffers())
        with explain_full_memory(recipe.train), finite_attention():
            if recipe.adapter.starts.get("init_lora_weights") == "eva" and checkpoint is None:
                assert not isinstance(encoded, ExampleStream)  # refused with the recipe
                start_from_activations(
                    model,
                    encoded,
                    pad_token_id=base.tokenizer.pad_token_id,
                    batch_size=recipe.train.batch_size,
                    seed=recipe.seed,
                    bfloat16=use_bfloat16(recipe.train.precision),
                )
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.stopped and trainer.state.global_step < arguments.max_steps:
        raise Interrupted(stop.signal or signal.SIGTERM, trainer.state.global_step)
    state = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        save_adapter(model, folder / "adapter", state, about=base.about)
    wait_for_all()
    rows = read_metrics(folder / METRICS)
    return TrainResult(
        processes=trainer.accelerator.num_processes,
        steps=trainer.state.global_step,
        examples=count,
        total_parameters=total,
        activated_parameters=activated,
        final=next((row.values for row in reversed(rows) if "loss" in row.values), {}),
        best=_best(rows, recipe.train.metric_for_best),
        alarms=tuple(text for row in rows for text in row.alarms.values()),
    )


def _find_checkpoint(folder: Path, settings: dict[str, Any], progress: Progress) -> Path | None:
    # The first process looks for all: files may differ by the time that another one does.
    checkpoint, damaged = in_first(lambda: latest_sound(folder))
    for path in damaged:
        progress.say(f"Skipping {path}: it is incomplete or damaged.")
    progress.say(f"Resuming from {checkpoint}." if checkpoint else "No checkpoint to resume from; starting over.")
    if checkpoint:
        refuse_other_settings(checkpoint, settings)
    return checkpoint


def _best(rows: Sequence[LoggedStep], metric: str) -> Mapping[str, float] | None:
    validations = [row.values for row in rows if metric in row.values]
    return min(validations, key=lambda values: values[metric]) if validations else None


def _make_trainer(
    base: BaseModel,
    model: PeftModel,
    recipe: Recipe,
    arguments: TrainingArguments,
    train_set: Dataset | ExampleStream,
    held_out: Dataset | None,
    *,
    selects: bool,
    weighted: bool,
) -> DualLossTrainer:
    return DualLossTrainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=held_out,
        data_collator=Collator(
            base.tokenizer.pad_token_id,
            # Liger has a forward call of its own, which never holds all logits; a router on the head sees all tokens.
            select_logits=selects and not recipe.train.liger and not adapts_head(model),
            train_on_prompt=recipe.data.train_on_prompt,
            packed=recipe.train.packing,
            weighted=weighted,
        ),
        loss_section=recipe.loss,
        router_learning_rate=recipe.train.router_learning_rate,
        loraplus_lr_ratio=recipe.train.loraplus_lr_ratio,
        group_by_length=recipe.train.group_by_length,
        decode=lambda ids: str(base.tokenizer.decode(ids, skip_special_tokens=True)),
    )
