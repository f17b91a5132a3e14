"""What happens around a training step: metrics on disk, sealed checkpoints, a graceful stop, a moving bar."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from topiclora_cli.errors import Hopeless
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.processes import wait_for_all
from topiclora_cli.runs.progress import Advance
from topiclora_cli.runs.results.metrics import LoggedStep, read_metrics
from topiclora_cli.training.alarms import raised
from topiclora_cli.training.checkpoints import rotate, seal

Watch = Callable[[int, float], bool]  # of a step and its loss on held-out examples: whether to give up


class MetricsLog(TrainerCallback):
    """Appends every log to metrics.jsonl, first dropping rows that a resumed run will write again.

    What alarms a log raises stands in its row and is told to `say`, each kind once in a run.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.say = say
        self.rows: list[LoggedStep] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.rows = [row for row in read_metrics(self.path) if row.step <= state.global_step]
        write_text(self.path, "".join(row.as_line() for row in self.rows))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or not {"loss", "eval_loss"} & set(logs):
            return
        values = {"step": state.global_step, **logs}
        known = {name for earlier in self.rows for name in earlier.alarms}
        found = raised([*(row.values for row in self.rows), values], state.max_steps)
        new = {name: text for name, text in found.items() if name not in known}
        self.rows.append(LoggedStep(values, new))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self.rows[-1].as_line())
        for text in new.values():
            self.say(f"Alarm at step {state.global_step}: {text}")


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint, with the settings that it belongs to, after the last of its files is written.

    Only then older ones go: `limit` are kept, and the best.
    """

    def __init__(self, settings: dict[str, Any], limit: int) -> None:
        self.settings = settings
        self.limit = limit

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        wait_for_all()  # each process writes the state of its own random numbers
        if state.is_world_process_zero and args.output_dir is not None:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seal(checkpoint, self.settings)
            rotate(checkpoint, self.limit, best=state.best_model_checkpoint)


class GracefulStop(TrainerCallback):
    """Turns SIGINT or SIGTERM into a checkpoint at the end of the running step; a second signal stops at once.

    One signalled process stops all, after the same step: `accelerator` is how they know of each other. Signals are
    the main thread's: a training in another one leaves them alone.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.stopped = False
        self.accelerator: Accelerator | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "GracefulStop":
        heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        for number in heard:
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
        self.stopped = self.signal is not None
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            if self.stopped:
                self.accelerator.set_trigger()
            self.stopped = self.accelerator.check_trigger()
        if self.stopped:
            control.should_save = True
            control.should_training_stop = True


class StopEarly(EarlyStoppingCallback):
    """Ends training after `patience` validations in a row that found nothing better, and tells `say`.

    A training that goes on from a checkpoint goes on counting, and takes no step where it had stopped.
    """

    def __init__(self, patience: int, say: Callable[[str], None]) -> None:
        super().__init__(patience)
        self.say = say

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        validated = [row["step"] for row in state.log_history if args.metric_for_best_model in row]
        self.early_stopping_patience_counter = sum(step > (state.best_global_step or 0) for step in validated)
        control.should_training_stop = control.should_training_stop or self._ends()

    def on_evaluate(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if self._ends() and state.is_world_process_zero:
            self.say(
                f"Stopped at step {state.global_step}: no better {args.metric_for_best_model} in "
                f"{self.early_stopping_patience_counter} validations since step {state.best_global_step}."
            )

    def _ends(self) -> bool:
        # Not asked of `control`, which also stops at the last step and at a signal.
        return self.early_stopping_patience_counter >= self.early_stopping_patience


class Watched(TrainerCallback):
    """Asks after each validation but the last whether it is worth going on; raises Hopeless where it is not."""

    def __init__(self, is_hopeless: Watch) -> None:
        self.is_hopeless = is_hopeless

    def on_evaluate(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        step, loss = state.global_step, metrics["eval_loss"]
        if step < state.max_steps and self.is_hopeless(step, loss):
            raise Hopeless(f"Stopped at step {step}: a loss of {loss:.4f} on held-out examples is no good by then.")


class SetEpoch(TrainerCallback):
    """Tells the sampler which epoch begins, so that each has an order of its own and a resumed one the same again.

    The trainer and accelerate do so through one wrapping of the sampler or two, but not through the three that there
    are when several processes resume within an epoch.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        layer = train_dataloader.batch_sampler
        while hasattr(layer, "batch_sampler"):
            layer = layer.batch_sampler
        if hasattr(getattr(layer, "sampler", None), "set_epoch"):  # a stream has no order to set
            layer.sampler.set_epoch(int(state.epoch or 0))


class ShareBuffers(TrainerCallback):
    """Gives all processes the first one's buffers, a topic router's keys among them.

    Where FSDP2 loads the trained parameters from a checkpoint, torch leaves buffers undefined in all but the first.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        broadcast(list(model.buffers()))


class MoveBar(TrainerCallback):
    """Moves a progress bar with each step and shows the newest losses on it."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.note = ""

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
