"""How far a grid is and what it has found, read while others work on it: no lock is held, and torch is not loaded."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.reports import cell_lines
from topiclora_cli.ablation.scores import score_cells
from topiclora_cli.ablation.states import CellState, states_of
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, load_recipe, with_experts
from topiclora_cli.reporting.grids.status import GridStatus
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.naming import REPORT
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.graph import GraphReport
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
    recipe = _as_made(recipe, run)
    work = Work(make_grid(recipe), folder)
    states = states_of(work)
    damaged = _leave_out_damaged(work)
    lines = [
        replace(line, state="failed", reason=damaged[line.folder]) if line.folder in damaged else line
        for line in cell_lines(states)
    ]
    return GridStatus(lines, score_cells(work, recipe.ablation.reference), _seconds_left(states), begin)


def _leave_out_damaged(work: Work) -> dict[str, str]:
    """Take the cells that cannot be read out of the grid; why, by their folders."""
    damaged = {}
    for cell in work.grid:
        try:
            if work.is_chosen(cell):
                work.result(cell)
        except TopicLoraError as error:
            damaged[cell.folder] = str(error)
    work.grid = [cell for cell in work.grid if cell.folder not in damaged]
    return damaged


def _as_made(recipe: Recipe, run: RunDir) -> Recipe:
    """With the number of experts that the run's graph has, where that is what the recipe wants."""
    if recipe.adapter.graph_experts != "auto":
        return recipe
    path = run.path / "graph" / REPORT
    if not path.is_file():
        raise TopicLoraError(
            f"{run.path} has no cells yet: its number of experts is still to be chosen.",
            f"Look again in a while, or begin with: {command_line('ablate', '--run', run.path)}",
        )
    return with_experts(recipe, read_result(path, GraphReport).experts)


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
