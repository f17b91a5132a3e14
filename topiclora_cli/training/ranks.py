"""AdaLoRA's pruning of singular values, which peft leaves to the training loop, and what it knows of their worth.

The worth of a value is a moving average over all steps so far, and which ones are pruned follows from it: a resumed run
prunes as an unbroken one does only if both are in its checkpoint.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from topiclora_cli.errors import TopicLoraError

FILE = "ranks.safetensors"
_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_KEPT = "kept"


class AllocateRanks(TrainerCallback):
    """Prunes at each step, gradients at hand; goes on from `checkpoint` where there is one."""

    def __init__(self, model: PeftModel, checkpoint: Path | None) -> None:
        self.tuner: Any = model.base_model
        self.checkpoint = checkpoint

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.checkpoint is None:
            return
        if not (self.checkpoint / FILE).is_file():
            raise TopicLoraError(f"{self.checkpoint} has no {FILE}.", "Start a new run with --out.")
        kept: dict[str, list[bool]] = {}
        for key, tensor in load_file(self.checkpoint / FILE).items():
            part, name = key.split("/", 1)
            if part == _KEPT:
                kept[name] = tensor.tolist()
            else:
                getattr(self.tuner.rankallocator, part)[name] = tensor.to(args.device)
        self._config.rank_pattern = kept or None

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        step, ends = state.global_step + 1, self._config.total_step - self._config.tfinal
        # What is pruned at the end goes by the steps before it, and a training of one step has none.
        if step < ends or self.tuner.rankallocator.exp_avg_ipt or self._config.rank_pattern:
            self.tuner.update_and_allocate(step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero or args.output_dir is None:
            return
        allocator = self.tuner.rankallocator
        tensors = {f"{part}/{name}": tensor for part in _AVERAGES for name, tensor in getattr(allocator, part).items()}
        kept = {f"{_KEPT}/{name}": torch.tensor(mask) for name, mask in (self._config.rank_pattern or {}).items()}
        save_file({**tensors, **kept}, Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE)

    @property
    def _config(self) -> Any:
        return self.tuner.peft_config[self.tuner.trainable_adapter_name]
