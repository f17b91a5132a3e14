"""What happens around a training step: metrics on disk, sealed checkpoints, a graceful stop, a moving bar."""

import json
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from topiclora_cli.files import write_text
from topiclora_cli.progress import Advance
from topiclora_cli.training.checkpoints import seal


class MetricsLog(TrainerCallback):
    """Appends every log to metrics.jsonl, first dropping rows that a resumed run will write again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        kept = [json.dumps(row) for row in read_metrics(self.path) if row["step"] <= state.global_step]
        write_text(self.path, "".join(line + "\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint after the last of its files is written."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and args.output_dir is not None:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class GracefulStop(TrainerCallback):
    """Turns SIGINT or SIGTERM into a checkpoint at the end of the running step; a second signal stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "GracefulStop":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.signal is not None:
            control.should_save = True
            control.should_training_stop = True


class MoveBar(TrainerCallback):
    """Moves a progress bar with each step and shows the newest losses on it."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.note = ""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.advance(state.global_step, "")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.advance(1, self.note)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        shown = {"loss_lm": "lm", "loss_kl": "kl"}
        self.note = "  ".join(f"{label} {logs[key]:.3f}" for key, label in shown.items() if logs and key in logs)


class AllocateRanks(TrainerCallback):
    """AdaLoRA's pruning of singular values, which peft leaves to the training loop: each step, gradients at hand."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        model.base_model.update_and_allocate(state.global_step + 1)
