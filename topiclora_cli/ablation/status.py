"""How far a grid is and what it has found, read while others work on it: no lock is held, and torch is not loaded."""

from collections.abc import Sequence
from statistics import fmean

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.reports import cell_lines, leave_out_damaged
from topiclora_cli.ablation.scores import score_cells
from topiclora_cli.ablation.states import CellState, states_of
from topiclora_cli.ablation.whole import as_made
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import load_recipe
from topiclora_cli.reporting.grids.status import GridStatus
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.run import RECIPE, RunDir


def grid_status(run: RunDir) -> GridStatus:
    """The grid that a run's recipe asks for; raises TopicLoraError where that is none, or none yet."""
    recipe = load_recipe(str(run.path / RECIPE))
    folder = run.path / "ablation"
    begin = None
    stage = run.stage("ablation")
    if not folder.is_dir() and (stage is None or stage.state == "failed"):
        begin = command_line("ablate", "--run", run.path)
        if not recipe.ablation.cells:
            raise TopicLoraError(
                f"{run.path} is no grid: its recipe has no cells.",
                f"Name another with --run, or give it cells: {begin} --grid KEY=A,B",
            )
    recipe = as_made(recipe, run)
    work = Work(make_grid(recipe), folder)
    states, damaged = states_of(work), leave_out_damaged(work)
    return GridStatus(
        cell_lines(states, damaged), score_cells(work, recipe.ablation.reference), _seconds_left(states), begin
    )


def _seconds_left(states: Sequence[CellState]) -> float | None:
    """What the runs that are done took, for each that is not, over as many at once as there are now."""
    done = [state for state in states if state.state == "done" and state.seconds is not None]
    left = [state for state in states if state.state in ("waiting", "running") and not state.reason.startswith("not ")]
    if not done or not left:
        return None
    usual = fmean(state.seconds or 0.0 for state in done)
    own: dict[str, list[float]] = {}
    for state in done:
        own.setdefault(state.name, []).append(state.seconds or 0.0)
    seconds = sum(
        max(0.0, (fmean(own[state.name]) if state.name in own else usual) - (state.seconds or 0.0)) for state in left
    )
    return seconds / max(1, sum(state.state == "running" for state in states))
