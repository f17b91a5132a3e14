"""What a training would need: parameters, memory, data, steps and disk, as plain values."""

from dataclasses import dataclass

from topiclora_cli.training.estimate import Batch, Memory


@dataclass(frozen=True)
class DataNeeds:
    """The training examples as far as they can be read: their number and tokens of one epoch, or why that is unknown;
    the longest example, and the most positions with logits that one has."""

    examples: int | None
    tokens: int | None
    longest: int
    labelled: int
    unknown: str = ""


@dataclass(frozen=True)
class Measured:
    """A few real steps on this machine: seconds of one with the mean number of tokens, tokens in one second, and the
    process's peak memory in GiB, on a CPU with all that it has loaded."""

    step_seconds: float
    tokens_per_second: float
    peak_gib: float
    device: str
    steps: int


@dataclass(frozen=True)
class Needs:
    """What a training would need: parameters, memory of one process, data, steps, disk, and what a few steps took."""

    base_parameters: int
    base_activated: int
    dtype: str
    trained: int
    activated: int
    batch: Batch
    memory: Memory
    data: DataNeeds
    steps: int | None
    disk: int
    measured: Measured | None

    @property
    def hours(self) -> float | None:
        """The training's time on this machine, without stage 1 and the priors."""
        if self.measured is None or self.steps is None:
            return None
        return self.steps * self.measured.step_seconds / 3600
