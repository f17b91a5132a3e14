"""`topiclora ablate status`: how far a grid is, and what it has found so far."""

from typing import Annotated

import typer

from topiclora_cli.cli.console import console
from topiclora_cli.cli.options import RunOption, find_run


def status(
    run: RunOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """Show each run of a grid, waiting, running, done or failed, and the scores so far; at any time."""
    from topiclora_cli.ablation.status import grid_status
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.grids.status import as_json as status_as_json
    from topiclora_cli.reporting.grids.status import status_tables, summary

    found = grid_status(find_run(run))
    if as_json:
        typer.echo(status_as_json(found))
        return
    if found.begin is not None:
        console.print(summary(found), soft_wrap=True)
    for table in status_tables(found):
        console.print(as_rich(table))
