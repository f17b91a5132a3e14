"""transformers' Trainer with the dual loss: language modelling plus KL from the topic prior to the routers."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.auxiliary import auxiliary_loss
from topiclora_cli.training.batch import Batch
from topiclora_cli.training.gradients import WatchGradients
from topiclora_cli.training.label_losses import label_losses
from topiclora_cli.training.meter import Meter
from topiclora_cli.training.optimizer import parameter_groups
from topiclora_cli.training.sampler import LengthBlockSampler
from topiclora_cli.training.saving import read_adapter, write_adapter
from topiclora_cli.training.terms import refuse_idle_terms, refuse_sharded_terms
from topiclora_cli.training.validation import validation_losses
from topiclora_cli.training.watched import Watched
from topiclora_cli.training.whole_step import WholeStep, count_step


class DualLossTrainer(Trainer):
    """Adds the recipe's auxiliary losses to a causal language model's own loss and logs each of them.

    A batch without a `prior` has no KL, and an adapter without routers (a plain LoRA, say) no loss on its routing.
    Raises TopicLoraError for a weight above zero whose term the model cannot have.
    """

    def __init__(
        self,
        *args: Any,
        loss_section: LossSection,
        router_learning_rate: float | None,
        loraplus_lr_ratio: float | None,
        group_by_length: bool,
        decode: Callable[[Tensor], str],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.loss_section = loss_section
        self.router_learning_rate = router_learning_rate
        self.loraplus_lr_ratio = loraplus_lr_ratio
        self.group_by_length = group_by_length
        self._meter = Meter()
        self._gradients = WatchGradients(self._meter, decode)
        self._samples: list[dict[str, Any]] = []
        self._whole: WholeStep | None = None  # of the running step
        self.add_callback(self._gradients)
        if self.args.n_gpu > 1:  # transformers would wrap the model in DataParallel
            raise TopicLoraError(
                f"One process sees {self.args.n_gpu} GPUs; it would train replicas whose routing no loss can see.",
                f"Start one process per GPU: torchrun --nproc-per-node {self.args.n_gpu} -m topiclora_cli train "
                "--recipe ..., or show one GPU alone: CUDA_VISIBLE_DEVICES=0.",
            )
        if self.is_fsdp_enabled:
            refuse_sharded_terms(loss_section)
        refuse_idle_terms(loss_section, self._trained, self._trained.get_base_model())

    @property
    def _trained(self) -> Any:
        assert self.model is not None
        return self.model

    @property
    def _watched(self) -> Watched:
        # Not kept: preparing the model for several processes may put another one in its place.
        return Watched(self._trained, self.loss_section)

    @property
    def _progress(self) -> float:
        """The part of training that is done."""
        return self.state.global_step / max(1, self.state.max_steps)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of a step and their number of labels, as the Trainer has them; kept for our losses."""
        samples, labels = super().get_batch_samples(*args, **kwargs)
        self._samples, self._whole = samples, None
        return samples, labels

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch forward and backward; its first row is kept until the step has proved sound."""
        if self._whole is None:
            # As they come: masks are counted anywhere, and the Trainer puts each micro-batch on the device in its turn.
            batches = [Batch.of(sample) for sample in self._samples]
            self._whole = self._watched.look_ahead(batches, self._prepare_inputs, self.accelerator, self._progress)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._gradients.add_micro_batch(inputs["input_ids"][0], loss)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        batch = Batch.of(inputs)
        whole = self._whole or count_step([batch], None)
        # Of a model that cannot be told the step's number of labels, the Trainer averages micro-batches later.
        later = 1 if num_items_in_batch is not None else whole.micro_batches
        with self._watched.watching(batch, self._progress) as record:
            if batch.label_weights is None:
                loss, outputs = super().compute_loss(
                    model, batch.inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
                )
            else:
                found = label_losses(model, batch)
                loss, outputs = later * whole.of_labels(found.values, found.weights), found.outputs
        language_modelling = loss.detach() / later
        step = self._watched.step(batch, record, outputs, self._progress)
        auxiliary = auxiliary_loss(step, whole, self.accelerator if self._whole else None)
        loss = loss + later * auxiliary.total
        if model.training:
            self._meter.add(loss_lm=language_modelling, **auxiliary.logged)
            self._meter.add_batch(record, batch.token_mask)
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The losses on held-out examples, per token and per example; the Trainer's own is a mean of batch means."""
        started = time.monotonic()
        batches = map(self._prepare_inputs, self.get_eval_dataloader(eval_dataset))
        metrics = validation_losses(self._trained, batches, self.loss_section, self.accelerator)
        self._meter.skip(time.monotonic() - started)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        if not self.group_by_length:
            return super()._get_train_sampler(dataset)
        # One optimizer step sees the same examples however it is cut into micro-batches and processes.
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthBlockSampler(dataset["length"], step, seed=self.args.seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with rates of their own for routers, which need a larger step, and for B (LoRA+, arXiv 2402.12354)."""
        if self.optimizer is None:
            trained = model or self._trained
            ratio = self.loraplus_lr_ratio
            groups = parameter_groups(
                trained,
                weight_decay=self.args.weight_decay,
                decayed=self.get_decay_parameter_names(trained),
                rates={
                    "a": None,
                    "b": None if ratio is None else self.args.learning_rate * ratio,
                    "router": self.router_learning_rate,
                },
            )
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self._trained)
            self.optimizer = optimizer_class(groups, **options)
        return super().create_optimizer(model)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Resumed after its last step, or after an early stop, the Trainer would take one more.
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            write_adapter(self._trained, folder, state_dict)
            torch.save(self.args, folder / TRAINING_ARGS_NAME)
            self._meter.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._meter.restore(Path(resume_from_checkpoint))
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            read_adapter(self._trained, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            super()._load_best_model()
        elif self.state.best_model_checkpoint is not None:
            read_adapter(self._trained, Path(self.state.best_model_checkpoint))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs.update(self._meter.read(self.accelerator))
            logs.update(self._gradients.logged(logs["grad_norm"]))
        super().log(logs, *args, **kwargs)
