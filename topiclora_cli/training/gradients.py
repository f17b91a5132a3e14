"""The gradients of each step, looked at between its last backward pass and the optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from topiclora_cli.training.guard import not_finite
from topiclora_cli.training.meter import Meter, before_clipping, gradient_norms
from topiclora_cli.training.optimizer import trained_parts


class WatchGradients(TrainerCallback):
    """Counts steps, and takes the norm of their gradients by kind; raises Diverged where one is no number.

    decode: the text of a row of token ids, which an error shows.
    """

    def __init__(self, meter: Meter, decode: Callable[[Tensor], str]) -> None:
        self.meter = meter
        self.decode = decode
        self._parts: dict[str, list[Tensor]] | None = None
        self._norms: dict[str, Tensor] = {}
        self._micro_batches: list[tuple[Tensor, Tensor]] = []  # first row and loss of each, within one step

    def add_micro_batch(self, first_row: Tensor, loss: Tensor) -> None:
        """Keep a micro-batch's first row (S,) and its loss until the step has proved sound."""
        self._micro_batches.append((first_row, loss))

    def logged(self, total: float) -> dict[str, float]:
        """The last step's norms by kind before clipping, whose total the Trainer knows."""
        return before_clipping({f"grad_norm_{kind}": float(norm) for kind, norm in self._norms.items()}, total)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if self._parts is None:
            self._parts = trained_parts(model)
        self._norms = gradient_norms(self._parts)
        self.meter.add_step()
        # Gradients are those of all processes, so that all stop here or none.
        if not torch.stack(list(self._norms.values())).isfinite().all():
            spoilt = [first for first, loss in self._micro_batches if not loss.isfinite()]
            if not spoilt and args.world_size == 1:
                spoilt = [first for first, _ in self._micro_batches]
            raise not_finite(state.global_step + 1, [self.decode(first) for first in spoilt])
        self._micro_batches.clear()
