"""What a search over a cell's values has tried."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from topiclora_cli.runs.results.record import Settings

TrialState = Literal["open", "done", "stopped", "diverged", "failed"]


@dataclass(frozen=True)
class Trial:
    """Values by dotted key, and how far they are; loss: on held-out examples, in nats per answer token, once done.

    open: asked for, and not finished. stopped: at a step where earlier trials were better. reason: why it failed.
    """

    number: int
    values: Settings
    state: TrialState
    loss: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Searches:
    """The trials of every search in a grid, by the search's name, in the order in which they were asked for."""

    trials: Mapping[str, tuple[Trial, ...]] = field(default_factory=dict)
