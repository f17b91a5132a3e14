"""How far the cells of a grid have come."""

from dataclasses import dataclass, field

from topiclora_cli.runs.results.record import Settings


@dataclass(frozen=True)
class CellLine:
    """A run of a grid: where it is in it, and how far.

    state: waiting, running, tried (one of several values, which was not chosen), done, failed or diverged; reason: why,
    in words. seconds: of its stages so far. stage: the one that it is at or failed in. attempt: which one, from 1.
    """

    name: str
    seed: int
    folder: str
    state: str
    reason: str = ""
    seconds: float | None = None
    stage: str = ""
    attempt: int = 0
    tuned: Settings = field(default_factory=dict)
