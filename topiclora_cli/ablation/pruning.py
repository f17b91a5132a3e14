"""A trial of a search is stopped early where the median of earlier ones was better at the same step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.study import load_study
from topiclora_cli.ablation.trials import read_trials
from topiclora_cli.errors import Hopeless
from topiclora_cli.training.callbacks import Watch


@contextmanager
def pruned(folder: Path, cell: Cell) -> Iterator[Watch | None]:
    """For the training of a cell, what tells its study of every validation, and says whether to stop; None for a run
    that is no trial.

    Where the block raises Hopeless, the study is told, and the error goes no further.
    """
    number = _open_trial(folder, cell)
    if number is None:
        yield None
        return
    from optuna.trial import Trial, TrialState

    study = load_study(folder, cell.search)
    trial = Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def is_hopeless(step: int, loss: float) -> bool:
        trial.report(loss, step)
        return trial.should_prune()

    try:
        yield is_hopeless
    except Hopeless:
        study.tell(number, state=TrialState.PRUNED)


def _open_trial(folder: Path, cell: Cell) -> int | None:
    """The number of the trial that a run is, where it is validated on its way."""
    if not cell.search or cell.seed != cell.recipe.ablation.seeds[0] or not cell.recipe.train.eval_steps:
        return None
    for trial in read_trials(folder).trials.get(cell.search, ()):
        if trial.state == "open" and dict(trial.values) == dict(cell.tuned):
            return trial.number
    return None
