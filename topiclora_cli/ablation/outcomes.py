"""What the runs of a grid came to, each read once it is finished."""

from pathlib import Path

from topiclora_cli.ablation.finished import CellResult, read_cell
from topiclora_cli.ablation.folders import diverged, held_out_loss, open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.runs.run import MANIFEST

Stamp = tuple[int, int, int]


class Outcomes:
    """Losses and scores of the cells in `folder`, by their folders; what is finished once is not looked at again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._losses: dict[str, float] = {}
        self._results: dict[str, CellResult] = {}
        self._untrained: dict[str, Stamp] = {}

    def loss(self, cell: Cell) -> float | None:
        """Of a trial on held-out examples, infinite where it diverged; None where it is not trained yet."""
        if cell.folder not in self._losses:
            # Asked hundreds of times at every look; a run's manifest is replaced when anything happens to it.
            stamp = _stamp(self.folder / cell.folder / MANIFEST)
            if stamp is None or stamp == self._untrained.get(cell.folder):
                return None
            run = open_cell(self.folder, cell)
            if run is None or not (run.is_done("train") or diverged(run)):
                self._untrained[cell.folder] = stamp
                return None
            self._losses[cell.folder] = held_out_loss(run, cell)
        return self._losses[cell.folder]

    def result(self, cell: Cell) -> CellResult | None:
        """The scores of a finished cell; None where it is not finished, or could not be scored in full."""
        if cell.folder not in self._results:
            found = read_cell(self.folder, cell)
            if found is None or not found.comparable:
                return None
            self._results[cell.folder] = found
        return self._results[cell.folder]


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
