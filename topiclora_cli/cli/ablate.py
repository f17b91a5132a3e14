"""`topiclora ablate`: a grid of cells over seeds, as the recipe has it or as it is asked for here."""

import typer

from topiclora_cli.cli import ablate_status
from topiclora_cli.cli.ablate_options import GridOptions, with_grid
from topiclora_cli.cli.console import TerminalProgress, console, interruptible
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, find_run, refuse_both
from topiclora_cli.errors import TopicLoraError

SOME_FAILED = 1  # as pytest has it: 2 is for mistakes in what was asked
PREPARATION = 600.0  # seconds to wait for another process that prepares the same grid

app = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND]")
app.command("status")(ablate_status.status)


@app.callback()
@with_grid
def ablate(
    context: typer.Context,
    grid: GridOptions,
    recipe: RecipeOption = None,
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
) -> None:
    """Train and evaluate every cell of a grid over seeds; finished cells are not run again.

    The grid is the recipe's, or what is asked for here, which the run keeps: --run goes on with it, in any number of
    terminals, which divide the cells among them.
    """
    if context.invoked_subcommand is not None:
        if grid.given or overrides or (recipe, run, out) != (None, None, None):
            raise TopicLoraError(
                f"Options before {context.invoked_subcommand} are those of a grid that runs.",
                f"Put them after it: topiclora ablate {context.invoked_subcommand} --help says which there are.",
            )
        return
    refuse_both(recipe, run, out)
    asked, again = grid.asked(), [*(["--cells", grid.cells] if grid.cells is not None else [])]
    from topiclora_cli.ablation.asking import ask
    from topiclora_cli.ablation.existing import ask_run, keep
    from topiclora_cli.ablation.launch import launch
    from topiclora_cli.ablation.runner import prepare_grid
    from topiclora_cli.ablation.states import cell_states, failed_lines
    from topiclora_cli.recipe import load_recipe
    from topiclora_cli.reporting.ablation import warnings
    from topiclora_cli.reporting.terminal import ablation_table
    from topiclora_cli.stages.whole import start_run

    progress = TerminalProgress()
    if recipe is not None:
        settings, notes = ask(load_recipe(recipe, overrides or []), asked)
        settings, directory = start_run(settings, out)
    else:
        directory = find_run(run or out)
        # What was said at the start of a run stands in its recipe; what is said of an existing one does not.
        again += [part for text in overrides or [] for part in ("--set", text)]
        again += ["--seeds", grid.seeds] if grid.seeds is not None else []
    with interruptible("ablate", "--run", directory.path, *again):
        # Held while the grid is prepared alone: each cell has a lock of its own.
        with directory.lock(patience=PREPARATION):
            if recipe is None:
                found = ask_run(directory, asked, overrides or [])
                settings, notes = found.now, found.notes
            for note in notes:
                progress.say(note)
            cells = prepare_grid(settings, directory, progress, only=grid.only)
            if recipe is None:
                keep(directory, found)
        result = launch(cells, settings, directory, progress)
    if result:
        console.print(ablation_table(result, settings.ablation.reference))
    for line in warnings(result):
        console.print(line, soft_wrap=True)
    if result:
        console.print(f"Report: {directory.path / 'ablation' / 'report.md'}", soft_wrap=True)
    if failed := list(failed_lines(cell_states(cells, directory.path / "ablation"))):
        for line in ["Failed, and to be tried again with --retry-failed:", *failed]:
            console.print(line, soft_wrap=True)
        raise typer.Exit(SOME_FAILED)
