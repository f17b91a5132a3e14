"""`topiclora ablate`: the recipe's grid of cells over seeds."""

from typing import Annotated

import typer

from topiclora_cli.cli.console import TerminalProgress, console, interruptible
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, assignment, listed, start_or_open

SOME_FAILED = 1  # as pytest has it: 2 is for mistakes in what was asked
PREPARATION = 600.0  # seconds to wait for another process that prepares the same grid


def ablate(
    recipe: RecipeOption = None,
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    cells: Annotated[str | None, typer.Option("--cells", help="Comma-separated names of cells (default: all).")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Comma-separated seeds (default: the recipe's).")] = None,
) -> None:
    """Train and evaluate every cell of the recipe's ablation grid; finished cells are not run again.

    The same command with --run in other terminals divides the cells among them.
    """
    changes = [*(overrides or []), *([assignment("ablation.seeds", listed(seeds))] if seeds is not None else [])]
    settings, directory = start_or_open(recipe, changes, run, out)
    from topiclora_cli.ablation.launch import launch
    from topiclora_cli.ablation.runner import prepare_grid
    from topiclora_cli.ablation.states import cell_states, failed_lines
    from topiclora_cli.reporting.ablation import warnings
    from topiclora_cli.reporting.terminal import ablation_table

    again = ["--cells", cells] if cells is not None else []
    if recipe is None:
        # What was said at the start of a run stands in its recipe; what is said of an existing one does not.
        again += [part for text in overrides or [] for part in ("--set", text)]
        again += ["--seeds", seeds] if seeds is not None else []
    progress = TerminalProgress()
    with interruptible("ablate", "--run", directory.path, *again):
        # Held while the grid is prepared alone: each cell has a lock of its own.
        with directory.lock(patience=PREPARATION):
            grid = prepare_grid(settings, directory, progress, only=listed(cells) if cells else None)
        result = launch(grid, settings, directory, progress)
    if result:
        console.print(ablation_table(result, settings.ablation.reference))
    for line in warnings(result):
        console.print(line, soft_wrap=True)
    if result:
        console.print(f"Report: {directory.path / 'ablation' / 'report.md'}", soft_wrap=True)
    if failed := list(failed_lines(cell_states(grid, directory.path / "ablation"))):
        for line in ["Failed, and to be tried again with --retry-failed:", *failed]:
            console.print(line, soft_wrap=True)
        raise typer.Exit(SOME_FAILED)
