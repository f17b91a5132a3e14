"""One cell after another in this very process."""

import gc
from collections.abc import Sequence
from pathlib import Path

import torch

from topiclora_cli.ablation.attempt import attempt
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import Ended
from topiclora_cli.runs.progress import Progress


class Here:
    """The launcher of a grid that has no other place: `start` comes back when the cell has ended."""

    def __init__(self, grid: Sequence[Cell], folder: Path, progress: Progress) -> None:
        self.grid, self.folder, self.progress = grid, folder, progress
        self._ended: list[Ended] = []

    def free(self) -> int:
        return 0 if self._ended else 1

    def start(self, cell: Cell) -> None:
        ended = attempt(cell, self.grid, self.folder, self.progress)
        if ended.how == "failed":
            _free_memory()
        self._ended.append(ended)

    def wait(self, seconds: float) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Called by a signal's handler, which interrupts what runs."""
        raise KeyboardInterrupt

    def kill(self) -> None:
        raise KeyboardInterrupt

    def close(self) -> None:
        """There is nothing to leave."""


def _free_memory() -> None:
    """Have the next cell find what a failed one has left lying about, on a GPU above all."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
