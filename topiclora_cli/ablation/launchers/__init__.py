"""Where cells run: in this process, in others beside it, or on a cluster, all under one protocol."""

from dataclasses import dataclass
from typing import Literal, Protocol

from topiclora_cli.ablation.grid import Cell

How = Literal["done", "failed", "busy", "interrupted", "died", "full"]


@dataclass(frozen=True)
class Ended:
    """How an attempt at a cell ended, and why if not well.

    failed: it is on record in the cell's folder. busy: another process is at the cell. died: what ran it is gone, and
    nothing is on record. full: the disk is, and nothing is on record. seconds: that it took; None where nobody counted
    them.
    """

    cell: Cell
    how: How
    reason: str = ""
    hint: str = ""
    seconds: float | None = None


class Launcher(Protocol):
    """Places that run a cell each; what runs there is `ablation.attempt.attempt`."""

    def free(self) -> int:
        """How many more cells can be started now."""

    def start(self, cell: Cell) -> None:
        """Have a free place attempt the cell."""

    def wait(self, seconds: float) -> list[Ended]:
        """What has ended, as soon as there is something, or nothing after so many seconds."""

    def stop(self) -> None:
        """Ask all to end where they can be resumed, as a signal does; each comes back from `wait` as interrupted."""

    def kill(self) -> None:
        """End all at once."""

    def close(self) -> None:
        """Leave, when nothing runs any more, or when it no longer matters."""
