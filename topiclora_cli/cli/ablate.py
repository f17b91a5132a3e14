"""`topiclora ablate`: a grid of cells over seeds, as the recipe has it or as it is asked for here."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topiclora_cli.cli import ablate_status
from topiclora_cli.cli.ablate_options import GridOptions, with_grid
from topiclora_cli.cli.ablate_running import RUN, RunningOptions, with_running
from topiclora_cli.cli.console import SOME_FAILED, TerminalProgress, console, errors, interruptible
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, find_run, refuse_both
from topiclora_cli.errors import TopicLoraError

if TYPE_CHECKING:
    from topiclora_cli.ablation.grid import Cell
    from topiclora_cli.runs.results.ablation import CellScore
    from topiclora_cli.runs.run import RunDir

PREPARATION = 600.0  # seconds to wait for another process that prepares the same grid

app = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND]")
app.command("status")(ablate_status.status)


@app.callback()
@with_running
@with_grid
def ablate(
    context: typer.Context,
    grid: GridOptions,
    running: RunningOptions,
    recipe: RecipeOption = None,
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, and train nothing.", rich_help_panel=RUN)
    ] = False,
    print_slurm: Annotated[
        bool,
        typer.Option("--print-slurm", help="Make the run, print a SLURM array that works it off.", rich_help_panel=RUN),
    ] = False,
) -> None:
    """Train and evaluate every cell of a grid over seeds; finished cells are not run again.

    The grid is the recipe's, or what is asked for here, which the run keeps: --run goes on with it, in any number of
    terminals, which divide the cells among them.
    """
    if context.invoked_subcommand is not None:
        if grid.given or running.given or dry_run or print_slurm or overrides or recipe or run or out:
            raise TopicLoraError(
                f"Options before {context.invoked_subcommand} are those of a grid that runs.",
                f"Put them after it: topiclora ablate {context.invoked_subcommand} --help says which there are.",
            )
        return
    refuse_both(recipe, run, out)
    running.check()
    if dry_run:
        _say_plan(grid, running, recipe, run or out, overrides or [])
    else:
        _run(grid, running, recipe, run or out, overrides or [], print_slurm=print_slurm)


def _say_plan(
    grid: GridOptions, running: RunningOptions, recipe: str | None, run: Path | None, overrides: Sequence[str]
) -> None:
    from topiclora_cli.ablation.asking import ask
    from topiclora_cli.ablation.called import as_in_grid
    from topiclora_cli.ablation.existing import ask_run
    from topiclora_cli.ablation.forecast import foresee
    from topiclora_cli.recipe import load_recipe
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.grid_plan import plan_lines, plan_table
    from topiclora_cli.runs.held import holding

    asked, only, directory = grid.asked(), grid.only, None
    with holding():
        if recipe is not None:
            settings, notes = ask(load_recipe(recipe, overrides), asked)
        else:
            directory = find_run(run)
            found = ask_run(directory, asked, overrides)
            settings, notes = found.now, found.notes
        only = only and [as_in_grid(settings, name, asked.axes) for name in only]
        plan = foresee(settings, directory, only=only, places=running.places)
    console.print(as_rich(plan_table(plan)))
    for line in (*notes, *plan_lines(plan)):
        console.print(line, soft_wrap=True)


def _run(
    grid: GridOptions,
    running: RunningOptions,
    recipe: str | None,
    run: Path | None,
    overrides: Sequence[str],
    *,
    print_slurm: bool,
) -> None:
    """run: where the new one of a recipe is to be, or the one to go on with."""
    from topiclora_cli.ablation.asking import ask
    from topiclora_cli.ablation.called import as_in_grid
    from topiclora_cli.ablation.existing import ask_run, keep
    from topiclora_cli.ablation.launch import launch
    from topiclora_cli.ablation.launchers.places import refuse_absent_gpus
    from topiclora_cli.ablation.runner import prepare_grid
    from topiclora_cli.ablation.slurm import slurm_script
    from topiclora_cli.recipe import load_recipe
    from topiclora_cli.stages.whole import start_run

    asked, only, options = grid.asked(), grid.only, running.options()
    if not print_slurm:
        refuse_absent_gpus(options.gpus)
    # A script is all that standard output is to have.
    progress = TerminalProgress(errors if print_slurm else console)
    again = ["--cells", grid.cells] if grid.cells is not None else []
    if recipe is not None:
        settings, notes = ask(load_recipe(recipe, overrides), asked)
        settings, directory = start_run(settings, run)
    else:
        directory = find_run(run)
        # What was said at the start of a run stands in its recipe; what is said of an existing one does not.
        again += [part for text in overrides for part in ("--set", text)]
        again += ["--seeds", grid.seeds] if grid.seeds is not None else []
    with interruptible("ablate", "--run", directory.path, *again, *running.again):
        # Held while the grid is prepared alone: each cell has a lock of its own.
        with directory.lock(patience=PREPARATION):
            if recipe is None:
                found = ask_run(directory, asked, overrides)
                settings, notes = found.now, found.notes
            for note in notes:
                progress.say(note)
            only = only and [as_in_grid(settings, name, asked.axes) for name in only]
            cells = prepare_grid(settings, directory, progress, only=only)
            if recipe is None:
                keep(directory, found)
        if print_slurm:
            typer.echo(slurm_script(directory.path, cells, options, again), nl=False)
            return
        scores = launch(cells, settings, directory, progress, options)
    _report(scores, cells, directory, settings.ablation.reference)


def _report(scores: "Sequence[CellScore]", cells: "Sequence[Cell]", directory: "RunDir", reference: str) -> None:
    """Print what came of it; raises typer.Exit where a cell failed."""
    from topiclora_cli.ablation.states import cell_states, failed_lines
    from topiclora_cli.reporting.ablation import warnings
    from topiclora_cli.reporting.terminal import ablation_table

    folder = directory.path / "ablation"
    if scores:
        console.print(ablation_table(scores, reference))
        for line in warnings(scores):
            console.print(line, soft_wrap=True)
        console.print(f"Report: {folder / 'report.md'}", soft_wrap=True)
    if failed := list(failed_lines(cell_states(cells, folder))):
        for line in ["Failed, and to be tried again with --retry-failed:", *failed]:
            console.print(line, soft_wrap=True)
        raise typer.Exit(SOME_FAILED)
