"""Which cell is taken next where several run at once: what others wait for, then the longest, so that the end is short.

Graham, "Bounds on multiprocessing timing anomalies", 1969: longest first ends a third later than the best at most.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.recipe import Recipe


def longest_first(cells: Sequence[Cell], seconds: Mapping[str, float], first_seed: int) -> list[Cell]:
    """The cells in the order to start them; seconds: what cells have taken that are finished, by name."""
    expected = expectation(cells, seconds)
    return sorted(cells, key=lambda cell: (not _decides(cell, first_seed), -expected[cell.folder]))


def expectation(cells: Sequence[Cell], seconds: Mapping[str, float]) -> dict[str, float]:
    """What each cell may take, by folder: as long as others of its name, else by its number of examples.

    In seconds where any are known, and in examples else.
    """
    known = [seconds[cell.name] / work_of(cell.recipe) for cell in cells if cell.trained and cell.name in seconds]
    pace = median(known) if known else 1.0
    return {cell.folder: seconds.get(cell.name, pace * work_of(cell.recipe) if cell.trained else 0.0) for cell in cells}


def work_of(recipe: Recipe) -> float:
    """How many examples a training takes in, or how often it takes in all of them, as the recipe alone can tell."""
    train = recipe.train
    if train.max_steps is None:
        return max(train.epochs, 1e-9)
    return float(train.max_steps * train.batch_size * train.gradient_accumulation)


def _decides(cell: Cell, first_seed: int) -> bool:
    """Whether other cells wait for it: the choice of their values is made at the first seed."""
    return bool(cell.tuned) and cell.seed == first_seed
