"""Optuna's side of a search: a study for each searched cell, in a journal that any number of processes share."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.recipe.space import Axis, Range
from topiclora_cli.runs.files import make_folder

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.journal"
_DIGITS = 4  # of a number that is proposed, so that a run's folder has it in full


def open_storage(folder: Path) -> "optuna.storages.BaseStorage":
    """The journal of all studies of a grid, by a lock that file systems over a network keep, too."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(make_folder(folder) / JOURNAL)
    return optuna.storages.JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def open_study(folder: Path, cell: Cell, *, seed: int, storage: "optuna.storages.BaseStorage") -> "optuna.Study":
    """The study of a searched cell, made where it is not there: TPE, and the median of earlier trials to stop by."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(
            study_name=cell.search_name,
            storage=storage,
            sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(),
            direction="minimize",
            load_if_exists=True,
        )


def load_study(folder: Path, name: str) -> "optuna.Study":
    """A study that is there, with what to stop its trials by."""
    import optuna

    return optuna.load_study(study_name=name, storage=open_storage(folder), pruner=optuna.pruners.MedianPruner())


def distributions(cell: Cell) -> dict[str, "optuna.distributions.BaseDistribution"]:
    """The space of a searched cell."""
    from optuna import distributions as of

    found: dict[str, of.BaseDistribution] = {}
    for key, axis in cell.axes:
        if not isinstance(axis, Range):
            found[key] = of.CategoricalDistribution(list(axis))
        elif axis.whole:
            found[key] = of.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        else:
            found[key] = of.FloatDistribution(axis.low, axis.high, log=axis.log)
    return found


def plain_values(cell: Cell, proposed: Mapping[str, Any]) -> dict[str, Any]:
    """Proposed values as a run has them."""
    return {key: _rounded(axis, proposed[key]) for key, axis in cell.axes}


def _rounded(axis: Axis, value: Any) -> Any:
    if not isinstance(axis, Range) or axis.whole:
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), axis.low), axis.high)


def own_values(cell: Cell) -> dict[str, Any] | None:
    """The recipe's own values of what is searched; None where the space lacks one."""
    own = {key: _said(cell, key) for key, _ in cell.axes}
    return own if all(_holds(axis, own[key]) for key, axis in cell.axes) else None


def _said(cell: Cell, key: str) -> Any:
    value: Any = cell.recipe
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _holds(axis: Axis, value: Any) -> bool:
    if not isinstance(axis, Range):
        return value in axis
    return isinstance(value, int | float) and axis.low <= value <= axis.high
