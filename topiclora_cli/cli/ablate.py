"""`topiclora ablate`: the recipe's grid of cells over seeds."""

from typing import Annotated

import typer

from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, assignment, listed, start_or_open
from topiclora_cli.cli.tables import ablation_table


def ablate(
    recipe: RecipeOption = None,
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    cells: Annotated[str | None, typer.Option("--cells", help="Comma-separated names of cells (default: all).")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Comma-separated seeds (default: the recipe's).")] = None,
) -> None:
    """Train and evaluate every cell of the recipe's ablation grid; finished cells are not run again."""
    changes = [*(overrides or []), *([assignment("ablation.seeds", listed(seeds))] if seeds is not None else [])]
    settings, directory = start_or_open(recipe, changes, run, out)
    from topiclora_cli.ablation.runner import run_grid

    with directory.lock():
        result = run_grid(settings, directory, TerminalProgress(), only=listed(cells) if cells else None)
    console.print(ablation_table(result))
    console.print(f"Report: {directory.path / 'ablation' / 'report.md'}", soft_wrap=True)
